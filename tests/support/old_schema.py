"""Filling a database of an older schema, for tests of upgrades: the code writes its own schema only."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from kraken_history.storing.longer_intervals import AGGREGATES

_FILL = """
    WITH filled AS (
        INSERT INTO candles (symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume,
                             trade_count, vwap, source)
        SELECT 'BTC/USDT', minute, 1, n, n + 2, n - 0.5, n + 1, 2, 2 * n, 3, n,
               CASE WHEN n % 2 = 0 THEN $2 ELSE $3 END::candle_source
        FROM unnest($1::timestamptz[]) WITH ORDINALITY AS m (minute, n)
    )
    INSERT INTO data_sync_status (symbol, data_type, oldest_timestamp, newest_timestamp)
    SELECT 'BTC/USDT', 'candles_1m', min(minute), max(minute) FROM unnest($1::timestamptz[]) AS m (minute)
"""


async def fill_minutes(pool: asyncpg.Pool, minutes: Sequence[datetime], *, even: str = "csv", odd: str = "csv") -> None:
    """Store a candle of each minute, alternately of these sources."""
    await pool.execute("SELECT ensure_partitions('candles', $1)", minutes)
    await pool.execute(_FILL, minutes, even, odd)


async def materialize(pool: asyncpg.Pool, until: datetime) -> None:
    """Store the longer candles before this time, as a refresh does."""
    for aggregate in AGGREGATES:
        view, table = aggregate.view, f"{aggregate.view}_rows"
        if await pool.fetchval("SELECT to_regclass($1) IS NULL", table):
            await pool.execute(f"CALL refresh_continuous_aggregate('{view}', NULL, $1::timestamptz)", until)
        else:
            await pool.execute(
                f"INSERT INTO {table} (symbol, timestamp, open, high, low, close, volume, quote_volume, trade_count,"  # noqa: S608
                f" vwap) SELECT symbol, timestamp, open, high, low, close, volume, quote_volume, trade_count, vwap"
                f" FROM {view} WHERE timestamp + $1::interval <= $2",
                aggregate.width,
                until,
            )
            await pool.execute(
                "UPDATE candle_aggregates SET materialized_until = date_bin($2, $3, '2000-01-03') WHERE name = $1",
                view,
                aggregate.width,
                until,
            )
    await pool.execute("UPDATE candle_aggregates SET stale_ranges = '{}', refreshed_at = now()")
