"""What retention drops is not counted as stored any more."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import migrate, read_migrations
from kraken_history.provider import HistoricalDataProvider
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.retention import drop_old
from kraken_history.storing.store import Store
from tests.aggregates.test_history_is_kept import history
from tests.support.examples import make_trade
from tests.support.waiting import until

OLD = datetime(2025, 3, 3, tzinfo=UTC)
NOW = OLD + timedelta(days=100)
DAY = timedelta(days=1)
CUTOFFS = {"trades": OLD + 10 * DAY, "candles": OLD + 16 * DAY}
SYMBOLS = ("BTC/USDT", "ETH/USDT")

Counts = dict[tuple[str, str], int]


async def stored(pool: asyncpg.Pool) -> Counts:
    """By symbol and table, the rows that are there."""
    rows = await pool.fetch(
        "SELECT symbol, 'trades' AS kind, count(*) FROM trades GROUP BY symbol"
        " UNION ALL SELECT symbol, 'candles_1m', count(*) FROM candles GROUP BY symbol"
    )
    return {(row["symbol"], row["kind"]): row["count"] for row in rows}


async def noted(pool: asyncpg.Pool) -> Counts:
    """The same, as ``data_sync_status`` counts."""
    rows = await pool.fetch("SELECT symbol, data_type, total_records FROM data_sync_status")
    return {(row["symbol"], row["data_type"]): row["total_records"] for row in rows}


async def test_status_counts_the_rows_that_are_left(
    pool: asyncpg.Pool, store: Store, migrated_database_url: str
) -> None:
    """After retention of 20 days status once counted 107,781 trades where 41,411 were left."""
    for symbol in SYMBOLS:
        await store.write(history(symbol))
    await refresh(pool, now=NOW)
    before = await stored(pool)

    await drop_old(pool, CUTOFFS, now=NOW)
    left = await stored(pool)
    await drop_old(pool, CUTOFFS, now=NOW)
    async with HistoricalDataProvider(migrated_database_url, 1, 1) as provider:
        status = await provider.get_sync_status("BTC/USDT")

    assert all(0 < left[key] < before[key] for key in before)
    assert await noted(pool) == left
    assert status is not None
    assert (status.total_trades, status.total_candles) == (
        left["BTC/USDT", "trades"],
        left["BTC/USDT", "candles_1m"],
    )
    assert await pool.fetchval("SELECT count(*) FROM dropped_rows") == 0


async def test_a_drop_does_not_wait_for_a_writer_and_the_counts_follow(pool: asyncpg.Pool, store: Store) -> None:
    """A writer holds the ledger and then needs the table: a drop that held the table and waited would stop both."""
    for symbol in SYMBOLS:
        await store.write(history(symbol))
    await refresh(pool, now=NOW)
    async with pool.acquire() as writer, writer.transaction():
        await writer.execute("SELECT FROM data_sync_status WHERE symbol = 'BTC/USDT' FOR UPDATE")
        dropping = asyncio.create_task(drop_old(pool, {"trades": OLD + 10 * DAY}, now=NOW))
        await until(lambda: writer.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        oldest = await writer.fetchval("SELECT min(timestamp) FROM trades")
    await dropping

    assert oldest >= OLD + 10 * DAY
    assert await noted(pool) == await stored(pool)


async def test_a_drop_that_is_rolled_back_changes_no_count(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(history())
    await refresh(pool, now=NOW)
    before = await noted(pool)
    async with pool.acquire() as reader, reader.transaction():
        await reader.execute("SELECT FROM trades WHERE timestamp < $1 LIMIT 1", OLD + DAY)
        await drop_old(pool, {"trades": OLD + 10 * DAY}, now=NOW)  # gives up after waiting for the reader

    assert await noted(pool) == await stored(pool) == before


async def test_trades_that_are_stored_where_others_were_dropped_count(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(history())
    await refresh(pool, now=NOW)
    await drop_old(pool, CUTOFFS, now=NOW)
    await Store(pool).write([make_trade(10**6, OLD + timedelta(hours=1))])

    assert await noted(pool) == await stored(pool)


@pytest.mark.parametrize("is_dropped", [True, False])
async def test_an_upgrade_counts_again_what_retention_has_dropped(database_url: str, is_dropped: bool) -> None:
    await migrate(database_url, migrations=[each for each in read_migrations() if each.version != 15])
    async with await create_pool(database_url, min_size=1, max_size=2) as pool:
        await Store(pool).write(history())
        before = await noted(pool)
        if is_dropped:
            await pool.execute("DELETE FROM trades WHERE timestamp < $1", CUTOFFS["trades"])
            await pool.execute("DELETE FROM candles WHERE timestamp < $1", CUTOFFS["candles"])
        await migrate(database_url)

        assert await noted(pool) == await stored(pool)
        assert (await noted(pool) == before) is not is_dropped
