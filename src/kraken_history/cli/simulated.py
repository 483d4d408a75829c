"""The simulator as a supervised program, and a client for its controls and its truth over HTTP."""

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
    """One simulator. ``async with`` opens an HTTP session; it does not start the simulator.

    Args:
        port: Default: a free one.
    """

    def __init__(self, symbols: Sequence[str], *, seed: int = 0, rate: float = 200.0, port: int | None = None) -> None:
        self.symbols = tuple(symbols)
        self._port = port or free_port()
        self._seed = seed
        self._rate = rate
        self._http: aiohttp.ClientSession | None = None

    def program(self, checkout: Path) -> Program:
        """The program to supervise. It starts paused. It is not restarted, since its truth is lost when it ends."""
        options = {"port": self._port, "seed": self._seed, "rate": self._rate, "symbols": ",".join(self.symbols)}
        words = [f"--{name}={value}" for name, value in options.items()]
        argv = (sys.executable, "-m", "simulator", "--paused", *words)
        return Program(SIMULATOR, argv, checkout, priority=50, starts_at_once=True, restarts=False)

    @property
    def settings(self) -> Mapping[str, str]:
        """Settings that make the services connect to the simulator instead of Kraken."""
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
        """Wait until the simulator has started.

        Raises:
            ServiceUnavailable: It did not answer within 30 s.
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
        """Start trading."""
        await self._ask("POST", "/control/start")

    async def stop(self) -> None:
        """Stop trading. REST and the truth still serve everything that was sent."""
        await self._ask("POST", "/control/stop")

    async def truth(self) -> dict[str, TruthOfSymbol]:
        """Summary of the trades that it has sent, by symbol."""
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
            raise ServiceUnavailable(f"the simulator did not answer ({error})") from error
