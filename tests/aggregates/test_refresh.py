"""What a refresh does and leaves, dies of, and keeps out."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest

from kraken_history.database.connections import write_again
from kraken_history.records import HistoricalTrade, TimeRange
from kraken_history.storing import aggregates, stale_time
from kraken_history.storing.aggregates import Refreshed, RefreshIsRunning, refresh, sole_refresher
from kraken_history.storing.longer_intervals import AGGREGATES
from kraken_history.storing.materialized import ContinuousKeeper, TableKeeper
from kraken_history.storing.stale_time import take_up_marks
from kraken_history.storing.store import Store
from tests.aggregates.truth import (
    assert_right,
    assert_wrong_only_where_marked,
    marked_ranges,
    materialized,
    shown,
)
from tests.support.examples import make_candle, make_trade

MONDAY = datetime(2025, 11, 10, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FIVE_MINUTES, ONE_HOUR, ONE_DAY, ONE_WEEK = (AGGREGATES[n] for n in (0, 3, 6, 7))


def spread(start: datetime, count: int, step: timedelta, *, first_id: int = 1) -> list[HistoricalTrade]:
    return [make_trade(first_id + n, start + n * step, f"{100 + n % 7}.5", f"0.{1 + n % 5}") for n in range(count)]


def views(refreshed: list[Refreshed]) -> set[str]:
    return {each.view for each in refreshed}


async def test_only_what_was_touched_is_refreshed(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(spread(MONDAY, 100, 2 * HOUR))
    await refresh(pool, now=MONDAY + 20 * DAY)

    await store.write([make_trade(900, MONDAY + 30 * HOUR + timedelta(minutes=1))])
    done = {each.view: each.window for each in await refresh(pool, now=MONDAY + 20 * DAY)}

    start = MONDAY + 30 * HOUR
    assert done["candles_5m"] == done["candles_1h"] == TimeRange(start, start + HOUR)
    assert done["candles_1d"] == TimeRange(MONDAY + DAY, MONDAY + 2 * DAY)
    assert done["candles_1w"] == TimeRange(MONDAY, MONDAY + 7 * DAY)
    await assert_right(pool)


async def test_without_a_mark_nothing_is_done(pool: asyncpg.Pool, store: Store) -> None:
    assert await refresh(pool) == []

    await store.write(spread(MONDAY, 10, HOUR))
    await refresh(pool, now=MONDAY + 20 * DAY)

    assert await refresh(pool, now=MONDAY + 20 * DAY) == []


async def test_an_open_bucket_stays_marked_until_it_is_closed(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(spread(MONDAY + 9 * HOUR, 23, timedelta(minutes=1)))
    now = MONDAY + 9 * HOUR + timedelta(minutes=23)

    during = views(await refresh(pool, now=now))
    await assert_right(pool)
    counts = [await materialized(pool, aggregate) for aggregate in AGGREGATES]
    assert during == {"candles_5m", "candles_15m"}
    assert counts == [4, 1, 0, 0, 0, 0, 0, 0]
    assert await marked_ranges(pool, ONE_WEEK) == [(MONDAY + 9 * HOUR, MONDAY + 10 * HOUR)]

    after = views(await refresh(pool, now=now + 7 * DAY))
    assert "candles_1w" in after
    assert await materialized(pool, ONE_WEEK) == 1
    await assert_right(pool)


async def test_a_bucket_counts_as_closed_a_little_after_its_end(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(spread(MONDAY, 5, timedelta(minutes=1)))
    end = MONDAY + timedelta(minutes=5)

    assert await refresh(pool, now=end + timedelta(seconds=9)) == []
    assert views(await refresh(pool, now=end + timedelta(seconds=10))) == {"candles_5m"}


async def test_what_comes_after_the_newest_refreshed_bucket_is_read_at_once(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(spread(MONDAY, 48, HOUR))
    await refresh(pool, now=MONDAY + 2 * DAY + HOUR)

    await store.write(spread(MONDAY + 3 * DAY, 20, timedelta(minutes=13), first_id=100))

    await assert_right(pool)


async def test_by_hand_a_range_is_refreshed_that_nobody_marked(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(spread(MONDAY, 48, HOUR))
    await refresh(pool, now=MONDAY + 20 * DAY)
    await pool.execute("UPDATE candles SET high = high + 1 WHERE timestamp = $1", MONDAY)

    done = await refresh(pool, within=TimeRange(MONDAY, MONDAY + timedelta(minutes=7)), now=MONDAY + 20 * DAY)

    assert TimeRange(MONDAY, MONDAY + timedelta(minutes=10)) in [each.window for each in done]
    await assert_right(pool)


async def test_by_hand_no_more_is_refreshed_than_there_are_candles(pool: asyncpg.Pool, store: Store) -> None:
    forever = TimeRange(datetime(1970, 1, 1, tzinfo=UTC), MONDAY + 20 * DAY)
    assert await refresh(pool, within=forever) == []

    await store.write(spread(MONDAY, 3, timedelta(minutes=1)))
    await refresh(pool, now=MONDAY + 20 * DAY)
    done = await refresh(pool, within=forever, now=MONDAY + 20 * DAY)

    assert [each.window for each in done] == [TimeRange(MONDAY, MONDAY + aggregate.width) for aggregate in AGGREGATES]


async def test_corrections_of_every_kind_arrive_in_all_intervals(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(spread(MONDAY, 400, timedelta(minutes=31)))
    await refresh(pool, now=MONDAY + 20 * DAY)

    await store.write([make_trade(1001, MONDAY + DAY + timedelta(minutes=7), "0.00000001", "123456789.12345678")])
    await store.write((), [make_candle(MONDAY + timedelta(minutes=31), trade_count=9)])
    await store.write((), [make_candle(MONDAY + 3 * DAY, trade_count=2, volume="7.100")], candle_source="csv")
    await assert_wrong_only_where_marked(pool)
    await refresh(pool, now=MONDAY + 20 * DAY)

    await assert_right(pool)


Keeping = Callable[..., Awaitable[int]]


@pytest.mark.parametrize("survived", [0, 1, 4, 7])
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
async def test_a_refresh_that_dies_anywhere_loses_nothing(
    pool: asyncpg.Pool, store: Store, monkeypatch: pytest.MonkeyPatch, survived: int, is_done: bool
) -> None:
    await store.write(spread(MONDAY, 48, HOUR))
    left = iter(range(survived + 1))

    def dying(refresh_window: Keeping) -> Keeping:
        async def die(*arguments: Any) -> int:
            dies = next(left) == survived
            kept = await refresh_window(*arguments) if is_done or not dies else 0
            if dies:
                raise ConnectionResetError("killed")
            return kept

        return die

    with monkeypatch.context() as patch:
        for keeper in (TableKeeper, ContinuousKeeper):
            patch.setattr(keeper, "refresh", dying(keeper.refresh))
        with pytest.raises(ConnectionResetError):
            await refresh(pool, now=MONDAY + 20 * DAY)
    await assert_wrong_only_where_marked(pool)
    await store.write([make_trade(900, MONDAY + timedelta(minutes=3))])
    await refresh(pool, now=MONDAY + 20 * DAY)

    await assert_right(pool)


async def test_a_refresh_whose_server_process_is_killed_loses_nothing(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(spread(MONDAY, 48, HOUR))

    async def refresh_and_be_killed() -> None:
        async with sole_refresher(pool) as connection:
            await take_up_marks(connection)
            await pool.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
            await aggregates.take_turn(connection, now=MONDAY + 20 * DAY)

    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
        await refresh_and_be_killed()
    await assert_wrong_only_where_marked(pool)
    await refresh(pool, now=MONDAY + 20 * DAY, wait_s=5)

    await assert_right(pool)
    assert await materialized(pool, ONE_HOUR) == 48


@pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)
async def test_a_refresh_that_dies_before_it_unmarks_is_done_again(
    pool: asyncpg.Pool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.write(spread(MONDAY, 48, HOUR))
    with monkeypatch.context() as patch:
        patch.setattr(stale_time, "_REMOVE_MARKS", "SELECT 1 / 0, $1::text, $2::timestamptz[], $3::timestamptz[]")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await refresh(pool, now=MONDAY + 20 * DAY)

    done = await refresh(pool, now=MONDAY + 20 * DAY)

    assert views(done) == {aggregate.view for aggregate in AGGREGATES}
    await assert_right(pool)


async def test_there_is_one_refresher_at_a_time(pool: asyncpg.Pool) -> None:
    async with sole_refresher(pool):
        with pytest.raises(RefreshIsRunning, match="another refresh is running"):
            await refresh(pool)
        waiting = asyncio.create_task(refresh(pool, wait_s=30))
        await asyncio.sleep(0)
    assert await waiting == []
    assert await refresh(pool) == []


async def test_refreshing_while_others_write_ends_right(pool: asyncpg.Pool, store: Store) -> None:
    trades = spread(MONDAY, 600, timedelta(minutes=17))
    later, at_first = trades[::2], trades[1::2]
    is_written = asyncio.Event()

    async def write() -> None:
        for at in range(0, 300, 15):
            for part in (at_first[at : at + 15], later[-at - 15 : len(later) - at]):
                await write_again(partial(store.write, part))  # as all writers do
        is_written.set()

    async def keep_refreshing() -> None:
        days = 0
        while not is_written.is_set():
            days += 1
            await refresh(pool, now=MONDAY + min(days, 9) * DAY)

    async with asyncio.timeout(60):
        await asyncio.gather(write(), keep_refreshing())
    await refresh(pool, now=MONDAY + 20 * DAY)

    await assert_right(pool)
    assert await materialized(pool, FIVE_MINUTES) == len(await shown(pool, FIVE_MINUTES))
