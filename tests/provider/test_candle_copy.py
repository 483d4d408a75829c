"""A long read copies its candles; they are the same, to the digit, as when their rows are fetched."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest

from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.candle_copy import FEWEST_BUCKETS, NotPlain, copy_candles
from kraken_history.reading.candle_query import CANONICAL_COLUMNS, Marks, Query, select_candles
from kraken_history.reading.candles import candles_of
from kraken_history.records import MINUTE, HistoricalCandle
from kraken_history.storing.aggregates import refresh

START = datetime(2026, 1, 5, tzinfo=UTC)
SYMBOL = "BTC/USDT"
MINUTES = 3 * FEWEST_BUCKETS
NUMBERS = ("0.00000001", "100", "100.5000", "12345678901234567890.123456789012345678", "0.1", "1000000", "7.10")

_FILL = """
    INSERT INTO candles (symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume,
                         trade_count, vwap, source)
    SELECT $1, $2::timestamptz + n * interval '1 minute', 1, p, p, p, p, CASE WHEN n % 9 = 0 THEN 0 ELSE p END, p * p,
           n % 1000, p, (ARRAY['trades', 'ohlc', 'csv']::candle_source[])[1 + n % 3]
    FROM generate_series(0, $3::integer - 1) AS n CROSS JOIN LATERAL (SELECT ($4::numeric[])[1 + n % 7] AS p) AS price
"""
_NOTE = """
    WITH marked AS (INSERT INTO stale_hours VALUES ($1, $2::timestamptz, $3::timestamptz + interval '1 minute'))
    INSERT INTO data_sync_status (symbol, data_type, oldest_timestamp, newest_timestamp, total_records)
    VALUES ($1, 'candles_1m', $2, $3, 0)
"""


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
        days = [START + timedelta(days=n) for n in range(4)]
        await pool.execute("SELECT ensure_partitions('candles', $1)", days)
        await pool.execute(_FILL, SYMBOL, START, MINUTES, list(map(Decimal, NUMBERS)))
        await pool.execute(_NOTE, SYMBOL, START, START + (MINUTES - 1) * MINUTE)
        yield pool


def digits(candles: list[HistoricalCandle]) -> list[list[object]]:
    """All values; numbers written out, because the driver writes 1000000 as 1.00E+6."""
    fields = HistoricalCandle.__struct_fields__
    values = ([getattr(each, name) for name in fields] for each in candles)
    return [[f"{value:f}" if isinstance(value, Decimal) else value for value in row] for row in values]


async def test_the_same_candles_to_the_digit(pool: asyncpg.Pool) -> None:
    span = START, START + MINUTES * MINUTE
    query = Query()
    select = select_candles(query, SYMBOL, 1, span, Marks({}))
    copied = select_candles(Query(literal=True), SYMBOL, 1, span, Marks({}))
    async with pool.acquire() as connection:
        rows = await connection.fetch(
            f"SELECT {CANONICAL_COLUMNS} FROM ({select}) AS c ORDER BY timestamp",  # noqa: S608 — our own SQL
            *query.arguments,
        )
        candles = await copy_candles(connection, copied, SYMBOL, 1)

    assert len(candles) == MINUTES
    assert candles == candles_of(rows)
    assert digits(candles) == digits(candles_of(rows))
    assert candles[0].timestamp.tzinfo is UTC
    assert {str(candle.open) for candle in candles} == {
        "1E-8",
        "100",
        "100.5",
        "12345678901234567890.123456789012345678",
        "0.1",
        "1000000",
        "7.1",
    }


@pytest.mark.parametrize("interval", [1, 3, 5])
@pytest.mark.parametrize("is_refreshed", [True, False])
async def test_a_long_read_equals_short_ones(
    pool: asyncpg.Pool, migrated_database_url: str, interval: int, is_refreshed: bool
) -> None:
    if is_refreshed:
        await refresh(pool)
    width, end = interval * MINUTE, START + interval * FEWEST_BUCKETS * MINUTE
    async with HistoricalDataProvider(migrated_database_url, 1, 1) as provider:
        whole = await provider.get_candles(SYMBOL, interval, START, end, gaps="ignore")
        short = []
        for at in range(0, FEWEST_BUCKETS, FEWEST_BUCKETS // 2):
            low = START + at * width
            short += await provider.get_candles(SYMBOL, interval, low, low + FEWEST_BUCKETS // 2 * width, gaps="ignore")

    assert len(whole) == min(FEWEST_BUCKETS, MINUTES // interval)
    assert digits(whole) == digits(short)


@pytest.mark.parametrize(
    ("symbol", "columns"),
    [
        ('A"B/USDT', "1.5 AS open"),
        ("BTC/USDT", "'NaN'::numeric AS open"),
        ("BTC/USDT", "NULL::numeric AS open"),
    ],
)
async def test_a_candle_that_is_not_plain_is_left_to_a_fetch(pool: asyncpg.Pool, symbol: str, columns: str) -> None:
    select = f"""
        SELECT {columns}, 1.5 AS high, 1.5 AS low, 1.5 AS close, 1.5 AS volume, 1.5 AS quote_volume, 1 AS trade_count,
               1.5 AS vwap, 'ohlc' AS source, now() AS timestamp
    """
    async with pool.acquire() as connection:
        with pytest.raises(NotPlain):
            await copy_candles(connection, select, symbol, 1)
        assert await connection.fetchval("SELECT 1") == 1
