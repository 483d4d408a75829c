"""Closed candles as server-sent events. Viewers of the same candles share one follower."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from datetime import datetime

import msgspec

from kraken_history.cli.instants import instant
from kraken_history.errors import HistoryError
from kraken_history.intervals import width_of
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalCandle
from kraken_history.runtime.tasks import end
from kraken_history.web.bodies import CANDLE_FIELDS, record_of
from kraken_history.web.problems import TooBusyError

MOST_FOLLOWERS = 32
"""Maximum number of different symbols and intervals that are followed at once; each takes one connection."""

MOST_LISTENERS = 500
"""Maximum number of open streams."""

HEARTBEAT_S = 15.0
"""A stream without a candle for so long gets a comment, so that proxies keep it open and lost viewers are noticed."""

_QUEUED = 1_000  # candles that a viewer may be behind

Key = tuple[str, int]
_Queue = asyncio.Queue[HistoricalCandle | None]


class CandleHub:
    """Follows candles once for all viewers of them."""

    def __init__(self, provider: HistoricalDataProvider) -> None:
        self._provider = provider
        self._followers: dict[Key, asyncio.Task[None]] = {}
        self._queues: dict[Key, set[_Queue]] = {}

    def end_streams(self) -> None:
        """End all streams, after what fits; their viewers ask again."""
        for queues in self._queues.values():
            for queue in queues:
                _last(queue)

    async def close(self) -> None:
        """End all followers."""
        for task in list(self._followers.values()):
            await end(task)

    def check_room(self, key: Key) -> None:
        """Check that one more viewer may be served.

        Raises:
            TooBusyError: There are too many viewers, or too many different candles are followed.
        """
        if sum(map(len, self._queues.values())) >= MOST_LISTENERS:
            raise TooBusyError(f"expected at most {MOST_LISTENERS} open streams: close some, or try again later")
        if key not in self._followers and len(self._followers) >= MOST_FOLLOWERS:
            raise TooBusyError(
                f"expected at most {MOST_FOLLOWERS} different symbols and intervals to be followed: try again later"
            )

    async def events(self, symbol: str, interval: int, since: datetime | None) -> AsyncIterator[bytes]:
        """The events of one viewer, without end; the stream ends if the viewer is too slow, and may be opened again.

        Args:
            since: The id of the last event that the viewer got: the end of its candle. Candles from there come first.
        """
        key = (symbol, interval)
        queue: _Queue = asyncio.Queue(_QUEUED)
        self._queues.setdefault(key, set()).add(queue)
        if key not in self._followers:
            self._followers[key] = asyncio.create_task(self._follow(key))
        try:
            reached = since
            if since is not None:
                for candle in await self._missed(key, since):
                    reached = candle.timestamp + width_of(interval)
                    yield _event(candle)
            yield b": following\n\n"
            while True:
                candle_or_end: HistoricalCandle | None = None
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        candle_or_end = await queue.get()
                except TimeoutError:
                    yield b": nothing new\n\n"
                    continue
                if candle_or_end is None:
                    return
                if reached is None or candle_or_end.timestamp >= reached:
                    yield _event(candle_or_end)
        finally:
            await self._leave(key, queue)

    async def _missed(self, key: Key, since: datetime) -> list[HistoricalCandle]:
        symbol, interval = key
        latest = await self._provider.get_warmup_data(symbol, interval, _QUEUED, gaps="ignore")
        return [candle for candle in latest if candle.timestamp >= since]

    async def _leave(self, key: Key, queue: _Queue) -> None:
        queues = self._queues.get(key, set())
        queues.discard(queue)
        if not queues and key in self._followers:
            self._queues.pop(key, None)
            await end(self._followers.pop(key))

    async def _follow(self, key: Key) -> None:
        symbol, interval = key
        with suppress(HistoryError):  # the streams end, and their viewers ask again
            async with aclosing(self._provider.follow_candles([symbol], interval)) as candles:
                async for candle in candles:
                    for queue in list(self._queues.get(key, ())):
                        self._offer(key, queue, candle)
        for queue in self._queues.pop(key, set()):
            _last(queue)
        self._followers.pop(key, None)

    def _offer(self, key: Key, queue: _Queue, candle: HistoricalCandle) -> None:
        try:
            queue.put_nowait(candle)
        except asyncio.QueueFull:
            self._queues[key].discard(queue)
            _last(queue)


def _last(queue: _Queue) -> None:
    """End a stream, after what fits."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(None)


def _event(candle: HistoricalCandle) -> bytes:
    closed = instant(candle.timestamp + width_of(candle.interval_minutes))
    data = msgspec.json.encode(record_of(candle, CANDLE_FIELDS)).decode()
    return f"id: {closed}\nevent: candle\ndata: {data}\n\n".encode()
