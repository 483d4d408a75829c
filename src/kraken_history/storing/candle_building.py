"""One-minute candles, built anew from the stored trades of a range of time."""

from datetime import UTC, datetime, timedelta

import asyncpg

from kraken_history.records import MINUTE, floor_minute
from kraken_history.storing.candle_writing import note_candles
from kraken_history.storing.store import lock_symbol

_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_TICK = timedelta(microseconds=1)


async def build_candles_from_trades(pool: asyncpg.Pool, symbol: str, start: datetime, end: datetime) -> int:
    """Build the one-minute candles of ``[start, end)`` anew from the stored trades; return how many changed.

    They are kept as trades come, so this is for rows that were changed by hand. A minute that the range cuts is
    built whole. As ever, a fuller candle is not replaced: where trades were dropped, their candles stay.
    """
    changed = 0
    day = floor_minute(start.astimezone(UTC))
    while day < end:
        next_day = min(day.replace(hour=0, minute=0) + _DAY, floor_minute(end.astimezone(UTC) + MINUTE - _TICK))
        changed += await _build_candles(pool, symbol, day, next_day)
        day = next_day
    return changed


async def _build_candles(pool: asyncpg.Pool, symbol: str, start: datetime, end: datetime) -> int:
    async with pool.acquire() as connection:
        if not await connection.fetchval(_HAS_TRADES, symbol, start, end):
            return 0
        await connection.execute("SELECT ensure_partitions('candles', $1)", [start])
        async with connection.transaction():
            await lock_symbol(connection, symbol)
            rows = await connection.fetch(_BUILD_CANDLES, symbol, start, end)
            if rows:
                minutes = [row["timestamp"] for row in rows]
                hours = sorted({minute.replace(minute=0) for minute in minutes})
                stale = "{" + ",".join(f"[{hour},{hour + _HOUR})" for hour in hours) + "}"
                new = sum(row["is_new"] for row in rows)
                await note_candles(connection, {symbol: (min(minutes), max(minutes))}, {symbol: new}, {symbol: stale})
    return len(rows)


_HAS_TRADES = "SELECT EXISTS (SELECT FROM trades WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3)"

_BUILD_CANDLES = """
    WITH built AS MATERIALIZED (
        SELECT date_trunc('minute', timestamp, 'UTC') AS minute,
               (array_agg(price ORDER BY id))[1] AS open, max(price) AS high, min(price) AS low,
               (array_agg(price ORDER BY id DESC))[1] AS close, sum(volume) AS volume,
               sum(price * volume) AS quote_volume, count(*)::integer AS trade_count,
               min(id) AS first_trade_id, max(id) AS last_trade_id
        FROM trades WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3 GROUP BY 1
    ), before AS MATERIALIZED (
        SELECT timestamp FROM candles
        WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $2 AND timestamp < $3
    ), written AS (
        INSERT INTO candles AS c (symbol, timestamp, interval_minutes, source, open, high, low, close,
                                  volume, quote_volume, vwap, trade_count, first_trade_id, last_trade_id)
        SELECT $1, minute, 1, 'trades', open, high, low, close, volume, quote_volume,
               div(quote_volume * 10000000000, volume) * 0.0000000001, trade_count, first_trade_id, last_trade_id
        FROM built
        ON CONFLICT (timestamp, symbol, interval_minutes) DO UPDATE SET
            open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
            volume = excluded.volume, quote_volume = excluded.quote_volume, vwap = excluded.vwap,
            trade_count = excluded.trade_count, source = excluded.source,
            first_trade_id = excluded.first_trade_id, last_trade_id = excluded.last_trade_id,
            stored_at = excluded.stored_at
        WHERE (excluded.trade_count, excluded.source) >= (c.trade_count, c.source)
          AND (c.source, c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.vwap, c.trade_count,
               c.first_trade_id, c.last_trade_id)
              IS DISTINCT FROM
              (excluded.source, excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume,
               excluded.quote_volume, excluded.vwap, excluded.trade_count, excluded.first_trade_id,
               excluded.last_trade_id)
        RETURNING c.timestamp
    )
    SELECT w.timestamp, b.timestamp IS NULL AS is_new
    FROM written w LEFT JOIN before b USING (timestamp)
"""
