"""Where retention dropped candles nothing is claimed any more, whatever is stored there again."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import migrate, read_migrations
from kraken_history.errors import CoverageError
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.database import Database
from kraken_history.reading.missing import require_complete, require_kept
from kraken_history.records import HistoricalTrade, TimeRange
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.retention import drop_old
from kraken_history.storing.store import Store
from tests.coverage_reads.meeting import locked, until_blocked
from tests.support.absent import make_absent
from tests.support.examples import make_trade
from tests.support.old_schema import fill_minutes, materialize

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MONDAY = datetime(2025, 3, 3, tzinfo=UTC)
LATER = MONDAY + 30 * DAY
NOW = MONDAY + 40 * DAY
CUTOFF = MONDAY + 20 * DAY


def hourly(first: int, last: int) -> list[HistoricalTrade]:
    """Trades with these ids, the first of all on Monday at midnight."""
    return [make_trade(n, MONDAY + n * HOUR) for n in range(first, last)]


async def drop(pool: asyncpg.Pool, *tables: str) -> None:
    await drop_old(pool, dict.fromkeys(tables, CUTOFF), now=NOW)


async def dropped_time(pool: asyncpg.Pool) -> TimeRange:
    """From the first to the last that was dropped of the candles."""
    row = await pool.fetchrow("SELECT lower(ranges), upper(ranges) FROM dropped_ranges WHERE relation = 'candles'")
    assert row is not None
    return TimeRange(*row)


async def test_time_stays_missing_when_a_trade_of_it_is_stored_late(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    """One healed trade once made a day whose candles were gone look quiet."""
    trades = [*hourly(0, 72), *hourly(720, 725)]
    await store.write([trade for trade in trades if trade.id != 30])
    await make_absent(pool, (72, 720))
    await drop(pool, "trades", "candles")
    await Store(pool).write(hourly(30, 31))
    end = (await dropped_time(pool)).end

    coverage = await history.get_coverage("BTC/USDT", MONDAY + DAY, LATER + HOUR)

    assert coverage.missing == [TimeRange(MONDAY + DAY, end)]
    assert coverage.duration("proven") == timedelta(minutes=1)
    for interval in (1, 60, 1440):
        with pytest.raises(CoverageError):
            await history.get_candles("BTC/USDT", interval, MONDAY + DAY, MONDAY + 2 * DAY, gaps="raise")


async def test_a_day_of_which_half_was_stored_before_the_drop_is_missing(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await store.write(hourly(0, 12))
    await drop(pool, "trades", "candles")
    await Store(pool).write(hourly(12, 25))
    await refresh(pool, now=NOW)

    coverage = await history.get_coverage("BTC/USDT", MONDAY, MONDAY + DAY)

    assert coverage.missing == [TimeRange(MONDAY, MONDAY + DAY)]


async def test_candles_outlive_their_trades(pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider) -> None:
    await store.write(hourly(0, 72))
    before = await history.get_coverage("BTC/USDT", MONDAY, MONDAY + 2 * DAY)
    await drop(pool, "trades")

    coverage = await history.get_coverage("BTC/USDT", MONDAY, MONDAY + 2 * DAY)

    assert await pool.fetchval("SELECT count(*) FROM trades") == 0
    assert coverage == before
    assert coverage.is_complete


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_candles_that_are_dropped_in_the_middle_of_a_read_do_not_leave_it_quiet(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await store.write(hourly(0, 72))
    async with locked(pool, "candles") as holder:
        reading = asyncio.create_task(history.get_coverage("BTC/USDT", MONDAY, MONDAY + DAY))
        await until_blocked(holder, reading)
        await holder.execute("INSERT INTO dropped_ranges VALUES ('candles', $1)", [asyncpg.Range(MONDAY, LATER)])
        await holder.execute(f"DROP TABLE candles_{MONDAY:%Y%m%d}")

    assert (await reading).missing == [TimeRange(MONDAY, MONDAY + DAY)]


async def test_candles_that_are_dropped_while_they_are_read_are_refused(
    migrated_database_url: str, pool: asyncpg.Pool, store: Store
) -> None:
    await store.write(hourly(0, 72))
    database = Database(migrated_database_url, 1, 1)
    await database.open()
    try:
        await require_complete(database, "BTC/USDT", (MONDAY, MONDAY + DAY))
        await drop(pool, "candles")
        with pytest.raises(CoverageError) as refusal:
            await require_kept(database, "BTC/USDT", (MONDAY, MONDAY + DAY))
    finally:
        await database.close()

    assert refusal.value.gaps == (TimeRange(MONDAY, MONDAY + DAY),)


async def test_what_was_dropped_before_it_was_kept_shows_in_daily_candles(database_url: str) -> None:
    await migrate(database_url, migrations=[each for each in read_migrations() if each.version < 11])
    async with await create_pool(database_url, min_size=1, max_size=2) as pool:
        await fill_minutes(pool, [MONDAY + n * timedelta(hours=1) for n in range(96)])  # not by the store
        await materialize(pool, NOW)
        await pool.execute("DELETE FROM candles WHERE timestamp < $1", MONDAY + 2 * DAY)
        await pool.execute("UPDATE data_sync_status SET time_ranges = '{[2025-01-01, 2026-01-01)}'")
    await migrate(database_url)

    async with HistoricalDataProvider(database_url, 1, 1) as history:
        coverage = await history.get_coverage("BTC/USDT", MONDAY, MONDAY + 3 * DAY)

    assert coverage.missing == [TimeRange(MONDAY, MONDAY + 2 * DAY)]
