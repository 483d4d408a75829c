"""A long refresh works in turns, newest time first, and its marks survive a death at any point."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import asyncpg
import pytest

from kraken_history.records import TimeRange
from kraken_history.storing import aggregates, stale_time
from kraken_history.storing.aggregates import refresh, sole_refresher
from kraken_history.storing.ledger_writing import lock_symbol
from kraken_history.storing.longer_intervals import AGGREGATES, Aggregate
from kraken_history.storing.store import Store
from tests.aggregates.truth import assert_right, assert_wrong_only_where_marked, marked_ranges
from tests.support.contents import stale_hours
from tests.support.examples import make_trade

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
NOW = MONDAY + timedelta(days=400)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


async def write_year(store: Store) -> None:
    """A trade every eighteen days, so that there are windows in five slices."""
    await store.write([make_trade(n, MONDAY + n * 18 * DAY) for n in range(1, 21)])


async def marks(pool: asyncpg.Pool) -> int:
    count: int = await pool.fetchval("SELECT count(*) FROM stale_buckets")
    return count


async def test_the_newest_time_is_refreshed_first(pool: asyncpg.Pool, store: Store) -> None:
    await write_year(store)

    done = await refresh(pool, now=NOW)

    of_days = [each.window.start for each in done if each.view == "candles_1d"]
    assert of_days[0] > of_days[-1]
    assert done[-1].window.start < MONDAY + 13 * 7 * DAY
    await assert_right(pool)


async def test_others_get_the_lock_between_two_turns(
    pool: asyncpg.Pool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock was held until all was done: for a pair with 26,000 minutes, seventeen minutes."""
    monkeypatch.setattr(aggregates, "_TURN_S", 0.0)
    monkeypatch.setattr(aggregates, "_PAUSE_S", 0.06)
    await write_year(store)
    counts: list[int] = []

    async def look() -> None:
        while True:
            async with sole_refresher(pool, wait_s=60):
                counts.append(await marks(pool))
            if len(counts) >= 4:
                return
            await asyncio.sleep(0.01)

    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        refreshing = tasks.create_task(refresh(pool, now=NOW, wait_s=60))
        tasks.create_task(look())

    assert len(refreshing.result()) > len(AGGREGATES)
    assert any(count > 0 for count in counts)
    assert await marks(pool) == 0
    await assert_right(pool)


async def test_a_refresh_tells_how_much_is_done_over_all_its_turns(
    pool: asyncpg.Pool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregates, "_TURN_S", 0.0)
    monkeypatch.setattr(aggregates, "_PAUSE_S", 0.0)
    await write_year(store)
    told: list[tuple[str, int, int]] = []

    await refresh(pool, now=NOW, told=lambda aggregate, done, wanted: told.append((aggregate.view, done, wanted)))

    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[0][1] == 0
    assert {wanted for _, _, wanted in told} == {told[0][2]}
    assert told[-1][1] < told[-1][2]


@pytest.mark.parametrize("statement", ["_HAND_OVER_MARKS", "_REMOVE_MARKS", "_ADD_MARKS"])
async def test_a_refresh_that_dies_at_a_statement_about_marks_loses_none(
    pool: asyncpg.Pool, store: Store, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    await write_year(store)
    await store.write([make_trade(900, NOW - HOUR)])  # in a day and a week that are open
    before = [await marked_ranges(pool, aggregate) for aggregate in AGGREGATES]
    with monkeypatch.context() as patch:
        real = getattr(stale_time, statement)
        patch.setattr(stale_time, statement, f"{real}; SELECT 1 / 0")
        with pytest.raises(asyncpg.PostgresError):
            await refresh(pool, now=NOW)
    await assert_wrong_only_where_marked(pool)
    if statement == "_HAND_OVER_MARKS":
        assert [await marked_ranges(pool, aggregate) for aggregate in AGGREGATES] == before

    await refresh(pool, now=NOW + 30 * DAY)

    assert await marks(pool) == 0
    await assert_right(pool)


async def test_a_cancelled_refresh_loses_no_mark(pool: asyncpg.Pool, store: Store) -> None:
    """Cancelled later each time: at the first await, the second, and so on, until one is done."""
    for delay in range(1, 12):
        await store.write([make_trade(100 * delay + n, MONDAY + n * 9 * DAY) for n in range(1, 41)])
        refreshing = asyncio.create_task(refresh(pool, now=NOW))
        await asyncio.sleep(delay * 0.03)
        refreshing.cancel()
        await asyncio.wait([refreshing])
        await assert_wrong_only_where_marked(pool)

    await refresh(pool, now=NOW, wait_s=10)

    await assert_right(pool)


async def test_a_minute_whose_hour_is_marked_writes_no_mark(pool: asyncpg.Pool, store: Store) -> None:
    await store.write([make_trade(1, MONDAY)])
    before = await pool.fetch("SELECT ctid::text, xmin::text, xmax::text, * FROM stale_hours")

    await store.write([make_trade(2, MONDAY + timedelta(minutes=7))])

    assert await pool.fetch("SELECT ctid::text, xmin::text, xmax::text, * FROM stale_hours") == before
    assert await stale_hours(pool, "BTC/USDT") == [(MONDAY, MONDAY + HOUR)]


async def test_a_write_that_has_not_committed_keeps_its_mark(
    pool: asyncpg.Pool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hour is marked already, so it adds no mark. A refresh that took the old one up would leave its candle out."""
    monkeypatch.setattr(stale_time, "_LOCK_TIMEOUT_MS", 50)
    await store.write([make_trade(1, MONDAY)])
    async with pool.acquire() as writer:
        async with writer.transaction():
            await lock_symbol(writer, "BTC/USDT")
            await refresh(pool, now=NOW)
            assert await stale_hours(pool, "BTC/USDT") == [(MONDAY, MONDAY + HOUR)]
            assert await marks(pool) == 0
        await refresh(pool, now=NOW)

    assert await stale_hours(pool, "BTC/USDT") == []
    await assert_right(pool)


async def test_a_symbol_that_is_locked_for_long_does_not_hold_up_the_others(
    pool: asyncpg.Pool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stale_time, "_LOCK_TIMEOUT_MS", 50)
    others = [f"T{number}/USD" for number in range(7)]
    await store.write([make_trade(1, MONDAY, symbol=symbol) for symbol in ["BTC/USDT", *others]])
    async with pool.acquire() as writer, writer.transaction():
        await lock_symbol(writer, "BTC/USDT")
        await refresh(pool, now=NOW)
        left = {row["symbol"] for row in await pool.fetch("SELECT symbol FROM stale_hours")}

    assert left == {"BTC/USDT"}


@pytest.mark.parametrize("most_rows", [3, 10])
async def test_windows_with_many_rows_are_halved(
    pool: asyncpg.Pool, store: Store, monkeypatch: pytest.MonkeyPatch, most_rows: int
) -> None:
    monkeypatch.setattr(aggregates, "_MOST_ROWS", most_rows)
    monkeypatch.setattr(aggregates, "_NEVER_HALVED", HOUR)
    await store.write([make_trade(n, MONDAY + n * HOUR) for n in range(24)])

    done = await refresh(pool, now=NOW)

    of_hours = [each.window for each in done if each.view == "candles_1h"]
    assert len(of_hours) >= 24 // (most_rows + 1)
    assert sum((each.duration for each in of_hours), timedelta()) == DAY
    assert await marks(pool) == 0
    await assert_right(pool)


async def test_a_mark_is_cut_into_slices(pool: asyncpg.Pool, store: Store) -> None:
    await store.write([make_trade(1, MONDAY), make_trade(2, MONDAY + 400 * DAY)])

    async with sole_refresher(pool) as connection:
        await stale_time.mark_candles(connection, TimeRange(MONDAY, MONDAY + 400 * DAY))
        found = await stale_time.marked_time(connection, AGGREGATES[0], NOW)

    assert len(found) == 5
    assert (found[0].start, found[-1].end) == (MONDAY, MONDAY + 400 * DAY)
    assert all(stale_time.slice_of(each.start) + stale_time.SLICE >= each.end for each in found)
    assert all(one.end == other.start for one, other in pairwise(found))


@pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda aggregate: aggregate.view)
def test_a_bucket_lies_in_one_slice(aggregate: Aggregate) -> None:
    assert stale_time.SLICE % aggregate.width == timedelta()
