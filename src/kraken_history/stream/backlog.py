"""Lag and pending entries of the consumer groups on each stream."""

import re
from collections.abc import AsyncIterator, Iterable

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from kraken_history.runtime.redis_connections import prefix_of
from kraken_history.stream import wire

_PAGE = 1000  # keys that one SCAN examines


class StreamState(Struct, frozen=True):
    """One consumer group on one stream.

    Attributes:
        group: Empty while no group reads the stream.
        length: Entries in the stream.
        lag: Entries that the group has not read yet.
        pending: Entries that the group has read and not acknowledged.
    """

    stream: str
    group: str
    length: int
    lag: int
    pending: int

    @property
    def shard(self) -> int:
        """Number of the stream's shard."""
        return int(self.stream.partition("{")[2].rstrip("}"))

    @property
    def is_drained(self) -> bool:
        """Whether the group has read and acknowledged every entry."""
        return not self.lag and not self.pending


async def fetch_streams(redis: Redis) -> list[StreamState]:
    """Every group of every stream of trades and candles, also of streams that no process knows of any more."""
    prefix = prefix_of(redis)
    shards = {shard async for shard in _found_shards(redis, prefix)}
    names = [of_kind(n, prefix) for n in sorted(shards) for of_kind in (wire.trades_stream, wire.candles_stream)]
    return [state for name in names for state in await _groups(redis, name)]


async def _found_shards(redis: Redis, prefix: str) -> AsyncIterator[int]:
    async for key in redis.scan_iter(f"{prefix}:*:{{*}}", count=_PAGE):
        found = re.fullmatch(rf"{re.escape(prefix)}:(?:trades|candles):{{(\d{{1,9}})}}", key.decode(errors="replace"))
        if found:
            yield int(found[1])


def nobody_reads(streams: Iterable[StreamState], shards: int) -> list[StreamState]:
    """Those of the streams in which entries wait, and which no consumer of so many shards reads."""
    return [state for state in streams if state.shard >= shards and not state.is_drained]


async def _groups(redis: Redis, stream: str) -> list[StreamState]:
    try:
        length = int(await redis.xlen(stream))
        groups = await redis.xinfo_groups(stream)
    except ResponseError as error:
        if "no such key" in str(error):
            return []
        raise
    if not groups:
        return [StreamState(stream, "", length, length, 0)] if length else []
    return [
        StreamState(stream, group["name"].decode(), length, await _lag(redis, stream, group), group["pending"])
        for group in groups
    ]


async def _lag(redis: Redis, stream: str, group: dict[str, object]) -> int:
    """The lag as Redis reports it. If Redis does not know it, as after a deletion, the entries are counted."""
    if group["lag"] is not None:
        return int(str(group["lag"]))
    last = group["last-delivered-id"]
    assert isinstance(last, bytes)
    return len(await redis.xrange(stream, min=f"({last.decode()}"))
