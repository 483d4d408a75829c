"""Controls and truth of a running simulator."""

from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from kraken_history.cli.verdict import TrueCandle, TruthOfSymbol


class _Candles(Struct):
    candles: list[TrueCandle]


class Kraken:
    """Controls and truth of a running simulator."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def ask(self, method: str, path: str, text: str = "", **query: str) -> bytes:
        """The answer of an endpoint that Kraken does not have."""
        url = self._url + path
        async with self._http.request(method, url, params=query, data=text, raise_for_status=True) as answer:
            return await answer.read()

    async def start(self) -> None:
        """Trade."""
        await self.ask("POST", "/control/start")

    async def stop(self) -> None:
        """Stop trading. REST stays."""
        await self.ask("POST", "/control/stop")

    async def disconnect(self) -> None:
        """Cut every WebSocket."""
        await self.ask("POST", "/control/disconnect")

    async def emitted(self) -> int:
        """Trades so far."""
        return int(msgspec.json.decode(await self.ask("GET", "/control/state"))["emitted"])

    async def truth(self) -> dict[str, TruthOfSymbol]:
        """Summary of all trades."""
        return msgspec.json.decode(await self.ask("GET", "/truth"), type=dict[str, TruthOfSymbol])

    async def candles(self, symbol: str) -> list[TrueCandle]:
        """All one-minute candles."""
        body = await self.ask("GET", "/truth/candles", symbol=symbol, interval="1")
        return msgspec.json.decode(body, type=_Candles).candles

    async def trades(self, symbol: str, from_id: int) -> list[dict[str, Any]]:
        """Trades from an id on."""
        body = await self.ask("GET", "/truth/trades", symbol=symbol, from_id=str(from_id))
        found: list[dict[str, Any]] = msgspec.json.decode(body)["trades"]
        return found
