"""A database that was filled before there was a refresh."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import migrate, read_migrations
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.longer_intervals import AGGREGATES
from tests.aggregates.truth import assert_right, marked_ranges, materialized
from tests.support.contents import stale_hours
from tests.support.old_schema import fill_minutes

MONDAY = datetime(2025, 11, 10, tzinfo=UTC)


async def test_marks_become_rows(database_url: str) -> None:
    """Hours that no refresh has taken up, and the time of each interval, which is cut at every 13 weeks."""
    await migrate(database_url, migrations=[each for each in read_migrations() if each.version < 21])
    async with await create_pool(database_url, min_size=1, max_size=2) as pool:
        await pool.execute(
            """
            INSERT INTO data_sync_status (symbol, data_type, stale_ranges)
            VALUES ('BTC/USDT', 'candles_1m', '{[2025-11-10 09:00Z,2025-11-10 10:00Z),[2025-11-12Z,2025-11-12 02:00Z)}')
            """
        )
        await pool.execute("UPDATE candle_aggregates SET stale_ranges = '{}'")
        await pool.execute(
            "UPDATE candle_aggregates SET stale_ranges = '{[2025-01-01Z,2025-09-01Z)}' WHERE name = 'candles_1d'"
        )
    await migrate(database_url)

    async with await create_pool(database_url, min_size=1, max_size=2) as pool:
        assert await stale_hours(pool, "BTC/USDT") == [
            (MONDAY + timedelta(hours=9), MONDAY + timedelta(hours=10)),
            (MONDAY + timedelta(days=2), MONDAY + timedelta(days=2, hours=2)),
        ]
        rows = await pool.fetch("SELECT name, start_time, end_time FROM stale_buckets ORDER BY start_time")
        days = [datetime(2025, *day, tzinfo=UTC) for day in ((1, 1), (3, 3), (6, 2), (9, 1))]
        assert [tuple(row) for row in rows] == [("candles_1d", *bounds) for bounds in pairwise(days)]


async def test_what_is_there_is_marked_and_refreshed(database_url: str) -> None:
    await migrate(database_url, migrations=[each for each in read_migrations() if each.version < 7])
    async with await create_pool(database_url, min_size=1, max_size=2) as pool:
        minutes = [MONDAY + n * timedelta(hours=7, minutes=1) for n in range(60)]
        await fill_minutes(pool, minutes)
    await migrate(database_url)

    async with await create_pool(database_url, min_size=1, max_size=2) as pool:
        end = MONDAY + timedelta(days=17, hours=6)
        assert [await marked_ranges(pool, aggregate) for aggregate in AGGREGATES] == [[(MONDAY, end)]] * 8
        await refresh(pool, now=MONDAY + timedelta(days=30))
        assert await materialized(pool, AGGREGATES[3]) == 60
        await assert_right(pool)
