"""Following in tests: at a quick pace, and with a time limit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from kraken_history.database.connections import Connection
from kraken_history.reading.database import Database
from kraken_history.reading.settling import Timing
from kraken_history.records import HistoricalCandle
from tests.support.waiting import until

QUICK = Timing(grace_s=0.5, patience_s=600, poll_s=0.05)

NEVER_POLLS = Timing(patience_s=600, poll_s=3600)
"""With this timing, only notifications cause candles."""

Opened = list[tuple[str, datetime]]


async def take(candles: AsyncIterator[HistoricalCandle], count: int, timeout_s: float = 20.0) -> list[HistoricalCandle]:
    """The next ``count`` candles."""
    async with asyncio.timeout(timeout_s):
        return [await anext(candles) for _ in range(count)]


class Watched(Database):
    """A database that counts its uses by a follower.

    Attributes:
        looks: Number of uses that have ended.
        failed: Number of uses that failed.
    """

    looks = failed = 0

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        self.failed += 1
        try:
            async with super().connection() as connection:
                yield connection
            self.failed -= 1
        finally:
            self.looks += 1

    async def be_looked_at(self) -> None:
        """Return when a use that began after this call has ended; for one follower."""
        wanted = self.looks + 2  # one may be running
        await until(lambda: self.looks >= wanted)


class Following:
    """A follower in a task of its own; ``async with`` ends it."""

    def __init__(self, candles: AsyncIterator[HistoricalCandle]) -> None:
        self.seen: list[HistoricalCandle] = []
        self._candles = candles
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Following":
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    @property
    def opened(self) -> Opened:
        """Symbol and open time of the candles seen."""
        return opened(self.seen)

    def of(self, symbol: str) -> list[HistoricalCandle]:
        """The candles seen of one symbol."""
        return [candle for candle in self.seen if candle.symbol == symbol]

    async def _follow(self) -> None:
        async for candle in self._candles:
            self.seen.append(candle)


def opened(candles: list[HistoricalCandle]) -> Opened:
    """Symbol and open time of each."""
    return [(candle.symbol, candle.timestamp) for candle in candles]
