"""``get_data_range``: which one-minute candles there are, after everything that stores, drops or removes some."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import MINUTE
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.repair import remove_trade
from kraken_history.storing.retention import drop_old
from kraken_history.storing.store import Store
from tests.support.examples import make_candle, make_trade

SYMBOL, DAY = "BTC/USDT", timedelta(days=1)
OLD = datetime(2025, 3, 3, tzinfo=UTC)
NOW = OLD + 100 * DAY


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
        yield pool


@pytest.fixture
async def provider(migrated_database_url: str) -> AsyncIterator[HistoricalDataProvider]:
    async with HistoricalDataProvider(migrated_database_url, 1, 2) as provider:
        yield provider


async def assert_counted(pool: asyncpg.Pool, provider: HistoricalDataProvider) -> int:
    """The answer is what a count of the rows gives; return their number."""
    row = await pool.fetchrow("SELECT min(timestamp), max(timestamp), count(*) FROM candles WHERE symbol = $1", SYMBOL)
    assert row is not None
    found = await provider.get_data_range(SYMBOL)
    assert (found["oldest"], found["newest"], found["total_candles"]) == tuple(row)
    return found["total_candles"]


async def test_it_is_right_after_retention_and_what_is_stored_again(
    pool: asyncpg.Pool, provider: HistoricalDataProvider
) -> None:
    store = Store(pool)
    await store.write([make_trade(n + 1, OLD + n * DAY) for n in range(40)])
    await store.write([make_trade(1, OLD, symbol="ETH/USDT")])
    assert await assert_counted(pool, provider) == 40
    await refresh(pool, now=NOW)

    await drop_old(pool, {"candles": OLD + 20 * DAY}, now=NOW)
    assert 20 <= await assert_counted(pool, provider) < 35
    assert await provider.get_data_range("ETH/USDT") == {"oldest": None, "newest": None, "total_candles": 0}

    await store.write(candles=[make_candle(OLD + 2 * DAY + MINUTE)])
    await assert_counted(pool, provider)
    await refresh(pool, now=NOW)
    await drop_old(pool, {"candles": NOW}, now=NOW)
    assert await assert_counted(pool, provider) == 0


@pytest.mark.parametrize("id_", [1, 2, 3])
async def test_it_is_right_after_a_trade_is_removed(
    pool: asyncpg.Pool, provider: HistoricalDataProvider, id_: int
) -> None:
    await Store(pool).write([make_trade(n + 1, OLD + n * 9 * DAY) for n in range(3)])

    await remove_trade(pool, SYMBOL, id_, "wrong")

    assert await assert_counted(pool, provider) == 2
