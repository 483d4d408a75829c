"""A database whose longer candles were stored before they said where they came from."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import Migration, check_schema, migrate, parse_migration, read_migrations
from kraken_history.provider import HistoricalDataProvider
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.longer_intervals import AGGREGATES
from tests.aggregates.truth import Rows, assert_right, shown
from tests.support.old_schema import fill_minutes, materialize
from tests.support.servers import DatabaseServer

MONDAY = datetime(2025, 11, 10, tzinfo=UTC)
DAY = timedelta(days=1)
NOW = MONDAY + 60 * DAY
KEPT_FROM = MONDAY + 14 * DAY
MINUTES = [MONDAY + n * timedelta(minutes=97) for n in range(500)]


async def old_database(url: str, *, drops: bool) -> None:
    """Thirty-three days with longer candles; with ``drops``, the minutes of the first two weeks were dropped."""
    await migrate(url, migrations=[each for each in read_migrations() if each.version < 14])
    async with await create_pool(url, min_size=1, max_size=2) as pool:
        await fill_minutes(pool, MINUTES, even="csv", odd="trades")
        await materialize(pool, MONDAY + 28 * DAY)
        if drops:
            await pool.execute("DELETE FROM candles WHERE timestamp < $1", KEPT_FROM)
            await pool.execute(
                "INSERT INTO dropped_ranges VALUES ('candles', tstzmultirange(tstzrange($1, $2)))", MONDAY, KEPT_FROM
            )


async def contents(pool: asyncpg.Pool) -> dict[str, Rows]:
    return {aggregate.view: await shown(pool, aggregate) for aggregate in AGGREGATES}


def without_source(contents: dict[str, Rows], before: datetime) -> dict[str, Rows]:
    return {
        view: {key: values[:-1] for key, values in rows.items() if key[1] < before} for view, rows in contents.items()
    }


def as_before_2_28(migrations: Sequence[Migration]) -> list[Migration]:
    """The same migrations for a TimescaleDB that cannot add a column to a continuous aggregate."""
    return [
        parse_migration(each.name, each.sql.replace("ARRAY[2, 28]", "ARRAY[99]")) if each.version == 14 else each
        for each in migrations
    ]


async def test_every_candle_is_kept_and_gets_its_source(database_url: str) -> None:
    await old_database(database_url, drops=False)
    await migrate(database_url)

    async with await create_pool(database_url, min_size=1, max_size=2) as pool:
        async with HistoricalDataProvider(database_url, 1, 1) as provider:
            before = await provider.get_candles("BTC/USDT", 60, MONDAY, MONDAY + 28 * DAY, gaps="ignore")
            await refresh(pool, now=NOW)
            assert await provider.get_candles("BTC/USDT", 60, MONDAY, MONDAY + 28 * DAY, gaps="ignore") == before
        await assert_right(pool)


async def test_candles_whose_minutes_were_dropped_are_kept_with_an_unknown_source(database_url: str) -> None:
    """An unknown source reads as the weakest, whatever the rest of a longer candle came from."""
    await old_database(database_url, drops=True)
    async with await create_pool(database_url, min_size=1, max_size=2) as pool:
        before = {
            each.view: {(row["symbol"], row["timestamp"]): row["volume"] for row in await _volumes(pool, each.view)}
            for each in AGGREGATES
        }
    await migrate(database_url)

    async with await create_pool(database_url, min_size=1, max_size=2) as pool:
        after_migration = await contents(pool)
        await refresh(pool, now=NOW)
        after = await contents(pool)
        assert without_source(after, NOW) == without_source(after_migration, NOW)
        for aggregate in AGGREGATES:
            volumes = await _volumes(pool, aggregate.view)
            assert {(row["symbol"], row["timestamp"]): row["volume"] for row in volumes} == before[aggregate.view]
        async with HistoricalDataProvider(database_url, 1, 1) as provider:
            hours = await provider.get_candles("BTC/USDT", 60, MONDAY, MONDAY + 28 * DAY, gaps="ignore")
            assert {hour.source for hour in hours if hour.timestamp < KEPT_FROM} == {"ohlc"}
            assert {hour.source for hour in hours if hour.timestamp >= KEPT_FROM} == {"csv", "trades"}
            [days] = [await provider.get_candles("BTC/USDT", 2880, MONDAY, MONDAY + 28 * DAY, gaps="ignore")]
            assert {each.source for each in days} == {"ohlc", "csv"}


async def _volumes(pool: asyncpg.Pool, view: str) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await pool.fetch(f"SELECT symbol, timestamp, volume FROM {view}")  # noqa: S608
    return rows


# Newer versions of TimescaleDB show a job with the name of the view, older ones with that of the table below it.
ALL_BUT_ONE_RUN = """
    SELECT alter_job(j.job_id, scheduled => c.view_name <> 'candles_15m') FROM timescaledb_information.jobs j
    JOIN timescaledb_information.continuous_aggregates c
      ON j.hypertable_name IN (c.view_name, c.materialization_hypertable_name)
    WHERE j.proc_name = 'policy_refresh_continuous_aggregate'
"""


@pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)
async def test_an_older_timescaledb_gets_new_aggregates_with_the_old_candles(
    database_server: DatabaseServer, database_url: str
) -> None:
    """Candles without minutes are copied; the policies are those of before."""
    await old_database(database_url, drops=True)
    async with await create_pool(database_url, min_size=1, max_size=2) as pool:
        before = without_none(await _all_values(pool))
        await pool.execute(ALL_BUT_ONE_RUN)
    await migrate(database_url, migrations=as_before_2_28(read_migrations()))

    async with await create_pool(database_url, min_size=1, max_size=2) as pool:
        await refresh(pool, now=NOW)

        assert without_none(await _all_values(pool)) == before
        sources = {view: {values[-1] for values in rows.values()} for view, rows in (await contents(pool)).items()}
        assert all({"None", "csv"} <= found for view, found in sources.items() if view in ("candles_5m", "candles_1h"))
        assert await _stopped_policies(pool) == ["candles_15m"]
        assert await pool.fetchval("SELECT has_table_privilege('kraken_reader', 'candles_1w', 'SELECT')")


async def _all_values(pool: asyncpg.Pool) -> dict[str, list[tuple[object, ...]]]:
    names = "symbol, timestamp, open, high, low, close, volume, quote_volume, trade_count, vwap"
    return {
        aggregate.view: [
            tuple(row)
            for row in await pool.fetch(f"SELECT {names} FROM {aggregate.view} ORDER BY symbol, timestamp")  # noqa: S608
        ]
        for aggregate in AGGREGATES
    }


def without_none(values: dict[str, list[tuple[object, ...]]]) -> dict[str, list[tuple[object, ...]]]:
    assert all(values.values())
    return values


async def _stopped_policies(pool: asyncpg.Pool) -> list[str]:
    rows = await pool.fetch(
        """
        SELECT c.view_name::text FROM timescaledb_information.jobs j
        JOIN timescaledb_information.continuous_aggregates c
          ON j.hypertable_name IN (c.view_name, c.materialization_hypertable_name)
        WHERE j.proc_name = 'policy_refresh_continuous_aggregate' AND NOT j.scheduled
        """
    )
    return [row[0] for row in rows]


async def test_the_schema_is_current_afterwards(database_url: str) -> None:
    await old_database(database_url, drops=False)
    await migrate(database_url)

    async with await create_pool(database_url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        await check_schema(connection)
