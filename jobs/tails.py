"""Fetches the newest trades of a symbol if they were lost on their way, and no newer one shows that.

A hole in the ids appears only when a later trade is stored. If Redis loses its last entries, and nobody trades, none
comes. But the producer knows the newest id that it has received, and its sign of life says so.
"""

import asyncio
import time
from collections.abc import Callable

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from jobs.context import WorkerContext
from kraken_history.completeness.holes import find_newest_ids
from kraken_history.database.failures import is_transient
from kraken_history.leaps import AT_ONCE
from kraken_history.runtime import liveness, telemetry
from kraken_history.runtime.redis_connections import prefix_of
from kraken_history.stream import wire

LOOK_EVERY_S = 3.0
"""Seconds between two comparisons of the producers' newest ids with the ledger."""

AGAIN_AFTER_S = 15.0
"""Seconds after which a lost tail is requested again if it is still missing. They double with each request."""

LONGEST_S = 300.0
"""Maximum seconds between two requests of one tail: Kraken's REST API may not show it, for example after a rollback."""

_NOTHING = "0-0"

_log = telemetry.get_logger("worker")


class _Behind(Struct):
    """A symbol whose newest received trade is not stored.

    Attributes:
        id: The id of that trade.
        since: The stream's last entry at the next look; that of the trade is not later. Empty before that look.
        due_s: When it may be requested again.
        requests: How often it was requested.
    """

    id: int
    since: str = ""
    due_s: float = 0.0
    requests: int = 0


class TailWatch:
    """Compares what the producers received with what is stored.

    Args:
        redis: That of the jobs and the signs of life.
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, context: WorkerContext, redis: Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._redis = redis
        self._streams = context.streams or redis
        self._clock = clock
        self._behind: dict[str, _Behind] = {}

    async def look(self) -> int:
        """Request the tails that were lost; return how many.

        A trade is lost if it is not stored, and no entry of its stream up to its own is still to be stored. The
        producer may publish it a moment after its sign of life, so the last entry is looked up at the next look.
        """
        live_ids = (await liveness.signs_of_life(self._redis)).live_ids
        newest = await find_newest_ids(self._context.pool, list(live_ids))
        behind = {symbol: id_ for symbol, id_ in live_ids.items() if symbol in newest and newest[symbol] < id_}
        for symbol in self._behind.keys() - behind.keys():
            del self._behind[symbol]
        return sum([await self._look_at(symbol, id_, newest[symbol]) for symbol, id_ in behind.items()])

    async def keep_looking(self) -> None:
        """Look every :data:`LOOK_EVERY_S`, until cancelled. Outages are logged elsewhere."""
        while True:
            try:
                await self.look()
            except Exception as error:
                if not isinstance(error, RedisError) and not is_transient(error):
                    _log.error("tails_not_looked_at", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look_at(self, symbol: str, live_id: int, newest_id: int) -> bool:
        seen = self._behind.get(symbol)
        if seen is None or seen.id <= newest_id:
            self._behind[symbol] = _Behind(live_id)
            return False
        stream = wire.trades_stream(wire.shard_of(symbol, self._shards), prefix_of(self._streams))
        if not seen.since:
            seen.since = await _last_entry(self._streams, stream)
        if self._clock() < seen.due_s or await _is_waiting(self._streams, stream, seen.since):
            return False
        seen.due_s = self._clock() + min(AGAIN_AFTER_S * 2**seen.requests, LONGEST_S)
        seen.requests += 1
        hole = (newest_id + 1, min(seen.id, newest_id + AT_ONCE) + 1)
        _log.warning("tail_lost", symbol=symbol, first=hole[0], count=hole[1] - hole[0])
        return await self._context.jobs.heal(symbol, hole, delay_s=0)

    @property
    def _shards(self) -> int:
        return self._context.settings.stream_shards


async def _last_entry(redis: Redis, stream: str) -> str:
    """The id of the last entry that was ever added to a stream."""
    try:
        return str((await redis.xinfo_stream(stream))["last-generated-id"].decode())
    except ResponseError as error:
        if "no such key" in str(error):
            return _NOTHING
        raise


async def _is_waiting(redis: Redis, stream: str, until: str) -> bool:
    """True if an entry up to ``until`` is still to be stored."""
    try:
        groups = await redis.xinfo_groups(stream)
    except ResponseError as error:
        if "no such key" in str(error):
            return False
        raise
    after = next((f"({g['last-delivered-id'].decode()}" for g in groups if g["name"] == wire.STORE_GROUP.encode()), "")
    if await redis.xrange(stream, min=after or "-", max=until, count=1):
        return True
    return bool(after and await redis.xpending_range(stream, wire.STORE_GROUP, min="-", max=until, count=1))
