"""The simulator as a supervised program, and its controls and truth over HTTP."""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import aiohttp
import msgspec

from kraken_history.cli.supervisor import Program
from kraken_history.cli.verdict import TrueCandle, TruthOfSymbol
from kraken_history.embedded.process import HOST, free_port
from kraken_history.errors import ServiceUnavailable

SIMULATOR = "simulator"
_START_TIMEOUT_S = 30.0
_POLL_S = 0.1
T = TypeVar("T")


class _Candles(msgspec.Struct):
    candles: list[TrueCandle]


class Simulated:
    """A simulator; ``async with`` opens the connection to it, and does not start it.

    Args:
        port: By default one that is free.
    """

    def __init__(self, symbols: Sequence[str], *, seed: int = 0, rate: float = 200.0, port: int | None = None) -> None:
        self.symbols = tuple(symbols)
        self._port = port or free_port()
        self._seed = seed
        self._rate = rate
        self._http: aiohttp.ClientSession | None = None

    def program(self, checkout: Path) -> Program:
        """How it is run: paused, and not again once it has ended, since its truth ends with it."""
        options = {"port": self._port, "seed": self._seed, "rate": self._rate, "symbols": ",".join(self.symbols)}
        words = [f"--{name}={value}" for name, value in options.items()]
        argv = (sys.executable, "-m", "simulator", "--paused", *words)
        return Program(SIMULATOR, argv, checkout, priority=50, starts_at_once=True, restarts=False)

    @property
    def settings(self) -> Mapping[str, str]:
        """What makes the services take it for Kraken."""
        place = f"{HOST}:{self._port}"
        return {
            "KRAKEN_WS_URL": f"ws://{place}/v2",
            "KRAKEN_REST_URL": f"http://{place}",
            "SYMBOLS": ",".join(self.symbols),
        }

    async def __aenter__(self) -> "Simulated":
        self._http = aiohttp.ClientSession(f"http://{HOST}:{self._port}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def wait_until_it_answers(self) -> None:
        """Wait for its start.

        Raises:
            ServiceUnavailable: It is not there in time.
        """
        give_up = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                await self._ask("GET", "/control/state")
            except ServiceUnavailable:
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(_POLL_S)
            else:
                return

    async def start(self) -> None:
        """Let it trade."""
        await self._ask("POST", "/control/start")

    async def stop(self) -> None:
        """Let it trade no more; what it has sent stays to be asked for."""
        await self._ask("POST", "/control/stop")

    async def truth(self) -> dict[str, TruthOfSymbol]:
        """What it has sent, by symbol."""
        return msgspec.json.decode(await self._ask("GET", "/truth"), type=dict[str, TruthOfSymbol])

    async def candles(self, symbol: str) -> list[TrueCandle]:
        """All one-minute candles of a symbol."""
        body = await self._ask("GET", "/truth/candles", symbol=symbol, interval="1")
        return msgspec.json.decode(body, type=_Candles).candles

    async def _ask(self, method: str, path: str, **query: str) -> bytes:
        assert self._http is not None
        try:
            async with self._http.request(method, path, params=query, raise_for_status=True) as response:
                return await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServiceUnavailable(f"the simulator does not answer ({error})") from error
