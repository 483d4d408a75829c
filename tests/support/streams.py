"""The content of the streams."""

from collections.abc import Sequence

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from kraken_history.records import HistoricalCandle, HistoricalTrade
from kraken_history.stream import wire

STREAMS = (wire.trades_stream(0), wire.candles_stream(0))


async def publish(redis: Redis, *entries: Sequence[HistoricalTrade] | Sequence[HistoricalCandle]) -> list[bytes]:
    """Add an entry for each of these; return their ids."""
    ids: list[bytes] = []
    for records in entries:
        stream = STREAMS[isinstance(records[0], HistoricalCandle)]
        ids.append(await redis.xadd(stream, wire.encode(records)))
    return ids


async def pending(redis: Redis, group: str = wire.STORE_GROUP) -> int:
    """Entries that were delivered and not acknowledged; none if the group does not exist yet."""
    try:
        return sum([int((await redis.xpending(stream, group))["pending"]) for stream in STREAMS])
    except ResponseError:
        return 0


async def is_settled(redis: Redis, group: str = wire.STORE_GROUP) -> bool:
    """True if the group has received and acknowledged every entry."""
    for stream in STREAMS:
        try:
            last = (await redis.xinfo_stream(stream))["last-generated-id"]
            mine = next((g for g in await redis.xinfo_groups(stream) if g["name"] == group.encode()), None)
        except ResponseError:  # a stream that does not exist yet
            return False
        if mine is None or mine["pending"] or mine["last-delivered-id"] != last:
            return False
    return True
