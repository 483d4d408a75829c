"""The refresh policies of TimescaleDB: as specified, started by the first refresh, and why not before."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.storing.aggregates import refresh
from kraken_history.storing.longer_intervals import AGGREGATES
from kraken_history.storing.store import Store
from tests.aggregates.truth import assert_right, assert_wrong_only_where_marked, grouped, shown
from tests.support.examples import make_trade

pytestmark = pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)

HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)
SPECIFIED = {
    "candles_5m": (HOUR, timedelta(minutes=5), timedelta(minutes=5)),
    "candles_15m": (2 * HOUR, timedelta(minutes=15), timedelta(minutes=15)),
    "candles_30m": (3 * HOUR, timedelta(minutes=30), timedelta(minutes=30)),
    "candles_1h": (6 * HOUR, HOUR, HOUR),
    "candles_4h": (DAY, 4 * HOUR, 4 * HOUR),
    "candles_12h": (2 * DAY, 12 * HOUR, 12 * HOUR),
    "candles_1d": (7 * DAY, DAY, DAY),
    "candles_1w": (30 * DAY, WEEK, WEEK),
}


async def policies(pool: asyncpg.Pool) -> list[asyncpg.Record]:
    return await pool.fetch(
        """
        SELECT c.view_name::text AS view, j.job_id, j.scheduled, j.schedule_interval,
               (j.config ->> 'start_offset')::interval AS start_offset,
               (j.config ->> 'end_offset')::interval AS end_offset
        FROM timescaledb_information.jobs j JOIN timescaledb_information.continuous_aggregates c
          ON j.hypertable_name IN (c.view_name, c.materialization_hypertable_name)
        WHERE j.proc_name = 'policy_refresh_continuous_aggregate'
        """
    )


async def run_policies(pool: asyncpg.Pool) -> None:
    for policy in await policies(pool):
        await pool.execute(f"CALL run_job({policy['job_id']})")


async def write_a_month(store: Store) -> None:
    """Until now; the policies know no other present than the server's."""
    newest = datetime.now(UTC).replace(second=0, microsecond=0)
    await store.write([make_trade(n, newest - n * 97 * timedelta(minutes=1)) for n in range(1, 450)])
    await store.write([make_trade(1_000 + n, newest - n * timedelta(minutes=1)) for n in range(240)])


async def test_they_are_as_specified(pool: asyncpg.Pool) -> None:
    found = {
        row["view"]: (row["start_offset"], row["end_offset"], row["schedule_interval"]) for row in await policies(pool)
    }

    assert found == SPECIFIED


async def test_they_wait_for_the_first_refresh_of_their_interval(pool: asyncpg.Pool, store: Store) -> None:
    assert not any(policy["scheduled"] for policy in await policies(pool))
    await store.write([make_trade(1, datetime(2025, 11, 10, tzinfo=UTC))])

    await refresh(pool, now=datetime(2025, 11, 10, 1, 30, tzinfo=UTC))
    hourly = {policy["view"] for policy in await policies(pool) if policy["scheduled"]}
    await refresh(pool)
    all_ = {policy["view"] for policy in await policies(pool) if policy["scheduled"]}

    assert hourly == {"candles_5m", "candles_15m", "candles_30m", "candles_1h"}
    assert all_ == SPECIFIED.keys()


async def test_one_that_an_operator_stops_stays_stopped(pool: asyncpg.Pool, store: Store) -> None:
    await write_a_month(store)
    await refresh(pool)
    await pool.execute("SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs")

    await store.write([make_trade(9_000, datetime.now(UTC) - 10 * DAY)])
    await refresh(pool)

    assert not any(policy["scheduled"] for policy in await policies(pool))


async def test_one_that_runs_before_the_first_refresh_hides_what_is_older(pool: asyncpg.Pool, store: Store) -> None:
    """Why they wait. The marks know what is hidden, so the next refresh brings it back."""
    await write_a_month(store)
    await assert_right(pool)

    await run_policies(pool)
    seen = [len(await shown(pool, aggregate)) for aggregate in AGGREGATES[:4]]
    stored = [len(await grouped(pool, aggregate)) for aggregate in AGGREGATES[:4]]
    assert all(less < all_ for less, all_ in zip(seen, stored, strict=True))
    await assert_wrong_only_where_marked(pool)

    await refresh(pool)
    await assert_right(pool)


async def test_after_a_refresh_they_change_nothing(pool: asyncpg.Pool, store: Store) -> None:
    await write_a_month(store)
    await refresh(pool)

    await run_policies(pool)

    await assert_right(pool)


async def test_they_keep_the_newest_buckets_without_a_refresh(pool: asyncpg.Pool, store: Store) -> None:
    await write_a_month(store)
    await refresh(pool)
    await store.write([make_trade(9_000, datetime.now(UTC) - timedelta(minutes=40))])

    await run_policies(pool)

    five_minutes = AGGREGATES[0]
    assert await shown(pool, five_minutes) == await grouped(pool, five_minutes)
