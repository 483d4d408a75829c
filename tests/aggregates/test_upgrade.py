"""A database that was filled before there was a refresh."""

from datetime import UTC, datetime, timedelta

from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import migrate, read_migrations
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.longer_intervals import AGGREGATES
from tests.aggregates.truth import assert_right, marked_ranges, materialized
from tests.support.old_schema import fill_minutes

MONDAY = datetime(2025, 11, 10, tzinfo=UTC)


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
