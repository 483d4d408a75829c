"""Following in tests: at a quick pace, and never for longer than it may take."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

from kraken_history.reading.settling import Timing
from kraken_history.records import HistoricalCandle

QUICK = Timing(grace_s=0.5, patience_s=600, poll_s=0.05)

Opened = list[tuple[str, datetime]]


async def take(candles: AsyncIterator[HistoricalCandle], count: int, timeout_s: float = 20.0) -> list[HistoricalCandle]:
    """The next so many candles."""
    async with asyncio.timeout(timeout_s):
        return [await anext(candles) for _ in range(count)]


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
        """Symbol and open time of what was seen."""
        return opened(self.seen)

    def of(self, symbol: str) -> list[HistoricalCandle]:
        """What was seen of one symbol."""
        return [candle for candle in self.seen if candle.symbol == symbol]

    async def _follow(self) -> None:
        async for candle in self._candles:
            self.seen.append(candle)


def opened(candles: list[HistoricalCandle]) -> Opened:
    """Symbol and open time of each."""
    return [(candle.symbol, candle.timestamp) for candle in candles]
