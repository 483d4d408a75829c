"""What was published, decoded."""

import redis.asyncio

from kraken_history.records import HistoricalCandle, HistoricalTrade
from kraken_history.stream import wire


async def trade_entries(redis: redis.asyncio.Redis, shard: int = 0) -> list[list[HistoricalTrade]]:
    """The trades of each entry."""
    return [wire.decode_trades(fields) for _, fields in await redis.xrange(wire.trades_stream(shard))]


async def published_trades(redis: redis.asyncio.Redis) -> list[HistoricalTrade]:
    """All trades of the first shard."""
    return [trade for entry in await trade_entries(redis) for trade in entry]


async def candle_entries(redis: redis.asyncio.Redis, shard: int = 0) -> list[list[HistoricalCandle]]:
    """The candles of each entry."""
    return [wire.decode_candles(fields) for _, fields in await redis.xrange(wire.candles_stream(shard))]


async def published_candles(redis: redis.asyncio.Redis) -> list[HistoricalCandle]:
    """All candles of the first shard."""
    return [candle for entry in await candle_entries(redis) for candle in entry]
