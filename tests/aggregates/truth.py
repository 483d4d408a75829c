"""What the eight intervals must show: a plain GROUP BY over the one-minute rows; and what they do show."""

from datetime import datetime

import asyncpg

from kraken_history.storing.longer_intervals import AGGREGATES, Aggregate

Bucket = tuple[str, datetime]
Rows = dict[Bucket, tuple[str, ...]]

VALUES = ("interval_minutes", "open", "high", "low", "close", "volume", "quote_volume", "trade_count", "vwap", "source")


async def grouped(pool: asyncpg.Pool, aggregate: Aggregate) -> Rows:
    """By symbol and time, computed from the one-minute rows. Weeks are those of the calendar: Monday to Sunday."""
    bucket = (
        "date_trunc('week', timestamp, 'UTC')"
        if aggregate.minutes == 7 * 24 * 60
        else f"to_timestamp(floor(extract(epoch FROM timestamp) / {aggregate.minutes * 60}) * {aggregate.minutes * 60})"
    )
    return _rows(
        await pool.fetch(
            f"""
            SELECT symbol, {bucket} AS timestamp, {aggregate.minutes} AS interval_minutes,
                   (array_agg(open ORDER BY timestamp))[1] AS open, max(high) AS high, min(low) AS low,
                   (array_agg(close ORDER BY timestamp DESC))[1] AS close, sum(volume) AS volume,
                   sum(quote_volume) AS quote_volume, sum(trade_count) AS trade_count,
                   CASE WHEN sum(volume) = 0 THEN 0
                        ELSE div(sum(quote_volume) * 1e10, sum(volume)) * 1e-10 END AS vwap,
                   CASE WHEN bool_or(source = 'ohlc') THEN 'ohlc' WHEN bool_or(source = 'csv') THEN 'csv'
                        ELSE 'trades' END AS source
            FROM candles WHERE interval_minutes = 1 GROUP BY 1, 2
            """  # noqa: S608 — only figures of ours are put in
        )
    )


async def shown(pool: asyncpg.Pool, aggregate: Aggregate) -> Rows:
    """By symbol and time, as readers see it."""
    return _rows(await pool.fetch(f"SELECT * FROM {aggregate.view}"))  # noqa: S608


def _rows(rows: list[asyncpg.Record]) -> Rows:
    found = {(row["symbol"], row["timestamp"]): tuple(str(row[name]) for name in VALUES) for row in rows}
    assert len(found) == len(rows)
    return found


async def assert_right(pool: asyncpg.Pool) -> None:
    """All eight show what the one-minute rows say, to the last digit."""
    for aggregate in AGGREGATES:
        assert await shown(pool, aggregate) == await grouped(pool, aggregate), aggregate.view


async def assert_wrong_only_where_marked(pool: asyncpg.Pool) -> None:
    """What the eight show differs from the one-minute rows only in buckets with a mark."""
    for aggregate in AGGREGATES:
        is_, should_be = await shown(pool, aggregate), await grouped(pool, aggregate)
        wrong = {
            at for symbol, at in is_.keys() | should_be.keys() if is_.get((symbol, at)) != should_be.get((symbol, at))
        }
        marked = await marked_ranges(pool, aggregate)
        for at in wrong:
            assert any(low < at + aggregate.width and at < high for low, high in marked), (aggregate.view, at)


async def marked_ranges(pool: asyncpg.Pool, aggregate: Aggregate) -> list[tuple[datetime, datetime]]:
    """Marks of the interval, and those that no refresh has taken up yet."""
    ranges = await pool.fetchval(
        """
        SELECT coalesce(range_agg(tstzrange(start_time, end_time)), '{}') FROM (
            SELECT start_time, end_time FROM stale_buckets WHERE name = $1
            UNION ALL SELECT start_time, end_time FROM stale_hours
        ) AS marks
        """,
        aggregate.view,
    )
    return [(each.lower, each.upper) for each in ranges]


async def materialized(pool: asyncpg.Pool, aggregate: Aggregate) -> int:
    """How many candles are materialised."""
    table = f"{aggregate.view}_rows"
    if await pool.fetchval("SELECT to_regclass($1) IS NULL", table):
        table = await pool.fetchval(
            """
            SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)
            FROM timescaledb_information.continuous_aggregates WHERE view_name = $1
            """,
            aggregate.view,
        )
    count: int = await pool.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608
    return count
