"""Backfills in this process, against the simulator, on either kind of database."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.errors import BackfillStopped, KrakenError, UnknownSymbol, UsageError
from kraken_history.fetching.backfill import BackfillRunner, backfill_symbol, fetch_all_trades, get_resume_point
from kraken_history.fetching.backfill_targets import (
    Backfill,
    cancel_backfills,
    list_backfills,
    pause_backfills,
    request_backfill,
    resume_backfills,
    take_stalled,
)
from kraken_history.kraken.client import KrakenRest
from kraken_history.ledger import IdRanges
from kraken_history.records import unix_ns, utc_from_unix_ns
from kraken_history.storing.store import Store
from tests.support.absent import make_absent
from tests.support.contents import ledger
from tests.support.kraken import BTC, CountedSimulator, NoLimit, assert_equals_truth

SYMBOL = "BTC/USDT"


@pytest.fixture
async def kraken() -> AsyncIterator[CountedSimulator]:
    """5,000 trades of one book in ten hours."""
    async with CountedSimulator((SYMBOL,), history=5_000, history_hours=10) as kraken:
        yield kraken


@pytest.fixture
async def rest(kraken: CountedSimulator) -> AsyncIterator[KrakenRest]:
    async with KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest:
        yield rest


def runner_of(pool: asyncpg.Pool, rest: KrakenRest, *, run_s: float = 60.0, lease_s: float = 30.0) -> BackfillRunner:
    return BackfillRunner(pool, Store(pool), rest, lease_s=lease_s, run_s=run_s)


async def only(pool: asyncpg.Pool) -> Backfill:
    (backfill,) = await list_backfills(pool)
    return backfill


async def store_from(pool: asyncpg.Pool, rest: KrakenRest, first: int, stop: int) -> None:
    """Hold the trades at these places of the tape."""
    trades = {t.id: t async for page in fetch_all_trades(rest, BTC) for t in page.trades}
    await Store(pool).write([trades[id_] for id_ in sorted(trades)[first:stop]])


# From nothing


async def test_from_nothing_to_the_tip_every_trade_and_candle_is_stored(
    pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator
) -> None:
    stored = await backfill_symbol(pool, SYMBOL, rest=rest)

    assert stored == 5_000
    await assert_equals_truth(pool, kraken)
    done = await only(pool)
    assert (done.state, done.trades, done.pages, done.unidentified) == ("done", 5_000, 6, 0)
    assert done.lease_until is None
    assert await get_resume_point(pool, SYMBOL) == done.next_since == kraken.exchange.tapes[SYMBOL].last_time_ns


async def test_a_second_backfill_fetches_next_to_nothing(
    pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator
) -> None:
    await backfill_symbol(pool, SYMBOL, rest=rest)
    kraken.calls.clear()

    assert await backfill_symbol(pool, SYMBOL, rest=rest) == 0
    assert len(kraken.calls) == 2
    await assert_equals_truth(pool, kraken)


async def test_it_goes_on_from_the_resume_point(pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator) -> None:
    await backfill_symbol(pool, SYMBOL, rest=rest)
    kraken.emit(1_500)
    kraken.calls.clear()

    assert await backfill_symbol(pool, SYMBOL, await get_resume_point(pool, SYMBOL), rest=rest) == 1_500
    assert len(kraken.calls) == 2
    await assert_equals_truth(pool, kraken)


async def test_a_target_is_half_open_by_pages(pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator) -> None:
    tape = kraken.exchange.tapes[SYMBOL]
    (first, last) = (tape.trades(at, at + 1)[0] for at in (1_200, 2_500))
    start, end = (datetime.fromtimestamp(t.time_ns // 10**9, tz=UTC) for t in (first, last))

    await backfill_symbol(pool, SYMBOL, unix_ns(start), end=end, rest=rest)

    rows = await pool.fetch("SELECT id, timestamp FROM trades ORDER BY id")
    times = {t.id: t.time_ns for t in tape.trades(0, len(tape))}
    wanted = [id_ for id_, at in times.items() if unix_ns(start) <= at < unix_ns(end)]
    assert [row["id"] for row in rows][: len(wanted)] == wanted
    assert len(rows) < len(wanted) + 1_000
    assert len(kraken.calls) == 2


# What is held already


async def test_what_is_held_is_leapt_over(pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator) -> None:
    await store_from(pool, rest, 1_500, 4_500)
    kraken.calls.clear()

    assert await backfill_symbol(pool, SYMBOL, rest=rest) == 2_000

    assert len(kraken.calls) <= 4  # 0…999, 999…1998, then from 4499 on
    await assert_equals_truth(pool, kraken)


async def test_the_live_tip_is_leapt_to(pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator) -> None:
    await store_from(pool, rest, 500, 5_000)
    kraken.calls.clear()

    await backfill_symbol(pool, SYMBOL, rest=rest)

    assert len(kraken.calls) == 2
    await assert_equals_truth(pool, kraken)


async def test_held_trades_whose_candles_are_the_exchanges_are_leapt_over_too(
    pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator
) -> None:
    await store_from(pool, rest, 1_500, 4_500)
    await pool.execute(
        "UPDATE candles SET source = 'ohlc', first_trade_id = NULL, last_trade_id = NULL, trade_count = trade_count + 1"
    )
    kraken.calls.clear()

    assert await backfill_symbol(pool, SYMBOL, rest=rest) == 2_000
    assert len(kraken.calls) <= 4
    assert await ledger(pool) == {SYMBOL: IdRanges.of(kraken.ids(SYMBOL))}


async def test_held_trades_that_retention_has_dropped_are_not_fetched_again(
    pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator
) -> None:
    await store_from(pool, rest, 1_500, 4_500)
    await pool.execute("DELETE FROM trades")
    kraken.calls.clear()

    assert await backfill_symbol(pool, SYMBOL, rest=rest) == 2_000
    assert len(kraken.calls) <= 4
    assert await ledger(pool) == {SYMBOL: IdRanges.of(kraken.ids(SYMBOL))}
    assert await pool.fetchval("SELECT sum(trade_count) FROM candles") == 5_000


async def test_ids_that_do_not_exist_are_passed_by(
    pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator
) -> None:
    await store_from(pool, rest, 500, 1_000)
    ids = kraken.ids(SYMBOL)
    await make_absent(pool, (ids[1000], ids[1001]), symbol=SYMBOL)
    await store_from(pool, rest, 1_001, 4_800)
    kraken.calls.clear()

    await backfill_symbol(pool, SYMBOL, rest=rest)

    assert len(kraken.calls) == 2


async def test_an_end_that_is_put_off_while_the_last_page_is_under_way_counts(
    pool: asyncpg.Pool, kraken: CountedSimulator
) -> None:
    """The page was past the end as it had been: the backfill was done, and what was asked for since never came."""
    tape = kraken.exchange.tapes[SYMBOL]
    near = utc_from_unix_ns(tape.trades(500, 501)[0].time_ns)

    class Extended(KrakenRest):
        async def fetch_trades_page(self, pair, since=0):  # type: ignore[no-untyped-def]
            page = await super().fetch_trades_page(pair, since)
            if len(kraken.calls) == 1:
                await request_backfill(pool, SYMBOL)
            return page

    await request_backfill(pool, SYMBOL, end=near)
    async with Extended(kraken.rest_url, NoLimit()) as rest:
        await runner_of(pool, rest).run(BTC)

    await assert_equals_truth(pool, kraken)


async def test_the_same_of_an_end_before_the_first_trade(pool: asyncpg.Pool, kraken: CountedSimulator) -> None:
    class Extended(KrakenRest):
        async def fetch_trades_page(self, pair, since=0):  # type: ignore[no-untyped-def]
            if not kraken.calls:
                await request_backfill(pool, SYMBOL)
            return await super().fetch_trades_page(pair, since)

    await request_backfill(pool, SYMBOL, end=datetime(2011, 1, 1, tzinfo=UTC))
    async with Extended(kraken.rest_url, NoLimit()) as rest:
        await runner_of(pool, rest).run(BTC)

    assert (await only(pool)).state == "done"
    await assert_equals_truth(pool, kraken)


# Leases


async def test_of_two_workers_one_gets_the_lease(
    pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator
) -> None:
    await request_backfill(pool, SYMBOL)

    first, second = await asyncio.gather(runner_of(pool, rest).run(BTC), runner_of(pool, rest).run(BTC))

    assert (first is None) is not (second is None)
    assert len(kraken.calls) == 6
    await assert_equals_truth(pool, kraken)


async def test_a_worker_that_was_overtaken_writes_nothing(
    pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator
) -> None:
    """One that was only slow comes back with its page when another holds the lease."""

    class Slow(KrakenRest):
        async def fetch_trades_page(self, pair, since=0):  # type: ignore[no-untyped-def]
            page = await super().fetch_trades_page(pair, since)
            await pool.execute("UPDATE backfills SET run = run + 1")
            return page

    await request_backfill(pool, SYMBOL)
    async with Slow(kraken.rest_url, NoLimit()) as slow:
        state = await runner_of(pool, slow).run(BTC)

    assert state is not None
    assert (state.state, state.pages, state.next_since) == ("running", 0, 0)
    assert await pool.fetchval("SELECT count(*) FROM trades") == 0


async def test_a_worker_that_was_overtaken_fails_nothing(
    pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator
) -> None:
    """What was the matter with its page ended the backfill of whoever had taken over."""

    class SlowAndRefused(KrakenRest):
        async def fetch_trades_page(self, pair, since=0):  # type: ignore[no-untyped-def]
            await pool.execute("UPDATE backfills SET run = run + 1")
            raise KrakenError(["EQuery:Unknown asset pair"])

    await request_backfill(pool, SYMBOL)
    async with SlowAndRefused(kraken.rest_url, NoLimit()) as slow:
        await runner_of(pool, slow).run(BTC)

    assert ((await only(pool)).state, (await only(pool)).reason) == ("running", "")


async def test_a_run_ends_after_its_time_and_the_next_goes_on(
    pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator
) -> None:
    await request_backfill(pool, SYMBOL)
    runner = runner_of(pool, rest, run_s=1e-9)

    runs = 0
    while (await only(pool)).state == "running":
        state = await runner.run(BTC)
        runs += 1
        assert state is not None
        assert state.lease_until is None
        if runs == 1:  # its time was over before the first page
            runner = runner_of(pool, rest, run_s=0.005)
        assert runs < 20

    await assert_equals_truth(pool, kraken)


async def test_only_backfills_without_a_living_worker_stand_still(pool: asyncpg.Pool) -> None:
    for symbol in ("A/USD", "B/USD", "C/USD", "D/USD", "E/USD"):
        await request_backfill(pool, symbol)
    await pool.execute("UPDATE backfills SET lease_until = now() + interval '9 s' WHERE symbol = 'A/USD'")
    await pool.execute("UPDATE backfills SET lease_until = now() - interval '1 s' WHERE symbol = 'B/USD'")
    await pool.execute("UPDATE backfills SET updated_at = now() - interval '31 s' WHERE symbol = 'C/USD'")
    await pool.execute(
        "UPDATE backfills SET updated_at = now() - interval '31 s', state = 'paused' WHERE symbol = 'D/USD'"
    )

    stalled = await take_stalled(pool, lease_s=30)
    again = await take_stalled(pool, lease_s=30)

    assert sorted(backfill.symbol for backfill in stalled) == ["B/USD", "C/USD"]
    assert {backfill.run for backfill in stalled} == {1}
    assert again == []


# Targets


async def test_a_paused_backfill_is_not_taken_and_a_resumed_one_goes_on(
    pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator
) -> None:
    await request_backfill(pool, SYMBOL)
    (paused,) = await pause_backfills(pool, SYMBOL)
    while_paused = await runner_of(pool, rest).run(BTC)
    (resumed,) = await resume_backfills(pool)

    assert (paused.state, while_paused, resumed.state) == ("paused", None, "running")
    done = await runner_of(pool, rest).run(BTC)
    assert done is not None
    assert done.state == "done"


async def test_pausing_stops_a_run_at_its_page(pool: asyncpg.Pool, kraken: CountedSimulator) -> None:
    class PausedAtThird(KrakenRest):
        async def fetch_trades_page(self, pair, since=0):  # type: ignore[no-untyped-def]
            if len(kraken.calls) == 2:
                await pause_backfills(pool)
            return await super().fetch_trades_page(pair, since)

    await request_backfill(pool, SYMBOL)
    async with PausedAtThird(kraken.rest_url, NoLimit()) as rest:
        state = await runner_of(pool, rest).run(BTC)

    assert state is not None
    assert (state.state, state.pages) == ("paused", 2)


async def test_a_cancelled_backfill_stays_cancelled_until_it_is_asked_for_again(pool: asyncpg.Pool) -> None:
    await request_backfill(pool, SYMBOL)
    assert [b.state for b in await cancel_backfills(pool, SYMBOL)] == ["cancelled"]
    assert await resume_backfills(pool) == await pause_backfills(pool) == await cancel_backfills(pool) == []
    assert (await request_backfill(pool, SYMBOL)).state == "running"


async def test_asking_again_goes_on_from_the_cursor_and_another_start_begins_anew(pool: asyncpg.Pool) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    first = await request_backfill(pool, SYMBOL, start=start)
    await pool.execute("UPDATE backfills SET next_since = 77, pages = 3, trades = 2000, state = 'failed', reason = 'x'")

    same = await request_backfill(pool, SYMBOL, start=start)
    other = await request_backfill(pool, SYMBOL)

    assert (same.next_since, same.pages, same.state, same.reason) == (77, 3, "running", "")
    assert same.created_at == first.created_at
    assert (other.next_since, other.pages, other.trades) == (0, 0, 0)
    assert first.run < same.run < other.run


async def test_a_target_that_ends_before_it_begins_is_refused(pool: asyncpg.Pool) -> None:
    now = datetime.now(UTC)
    for start, end in ((now, now), (now, now - timedelta(days=1))):
        with pytest.raises(UsageError, match="must be before end"):
            await request_backfill(pool, SYMBOL, start=start, end=end)

    assert await list_backfills(pool) == []


async def test_a_target_in_the_future_is_refused(pool: asyncpg.Pool) -> None:
    """Between two future times nothing is traded yet: such a backfill ended at once, and said that it was done."""
    now = datetime.now(UTC)
    for end in (None, now + timedelta(days=2)):
        with pytest.raises(UsageError, match="must not be in the future"):
            await request_backfill(pool, SYMBOL, start=now + timedelta(days=1), end=end)

    assert await list_backfills(pool) == []


async def test_a_target_that_ends_in_the_future_ends_now(pool: asyncpg.Pool) -> None:
    before = datetime.now(UTC)
    asked = await request_backfill(pool, SYMBOL, end=before + timedelta(days=1))

    assert before <= asked.target_end <= datetime.now(UTC)


async def test_an_end_before_the_pair_existed_brings_no_trade(
    pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator
) -> None:
    """The pair's first page was stored, all of it after the end."""
    end = datetime(2011, 1, 1, tzinfo=UTC)

    assert await backfill_symbol(pool, SYMBOL, end=end, rest=rest) == 0
    done = await only(pool)
    assert (done.state, done.trades, done.pages, done.reached, done.lease_until) == ("done", 0, 1, end, None)
    assert done.reason.startswith("no trade before 2011-01-01 00:00:00Z, the next one is at 20")
    assert await pool.fetchval("SELECT count(*) FROM trades") == 0
    assert await get_resume_point(pool, SYMBOL) == done.next_since > unix_ns(end)
    assert len(kraken.calls) == 1

    assert await backfill_symbol(pool, SYMBOL, rest=rest) == 5_000
    await assert_equals_truth(pool, kraken)


async def test_a_target_between_two_trades_brings_none(
    pool: asyncpg.Pool, rest: KrakenRest, kraken: CountedSimulator
) -> None:
    tape = kraken.exchange.tapes[SYMBOL]
    times = [utc_from_unix_ns(trade.time_ns) for trade in tape.trades(0, 1_000)]
    pause, at = max((b - a, at) for at, (a, b) in enumerate(itertools.pairwise(times)))
    start, end = times[at] + pause / 3, times[at] + 2 * pause / 3

    assert await backfill_symbol(pool, SYMBOL, unix_ns(start), end=end, rest=rest) == 0
    assert ((await only(pool)).state, await pool.fetchval("SELECT count(*) FROM trades")) == ("done", 0)


async def test_an_unknown_symbol_is_refused(pool: asyncpg.Pool, rest: KrakenRest) -> None:
    with pytest.raises(UnknownSymbol, match="BTC/NOPE"):
        await backfill_symbol(pool, "BTC/NOPE", rest=rest)

    assert await list_backfills(pool) == []


async def test_a_backfill_that_was_cancelled_meanwhile_is_an_error_of_the_call(
    pool: asyncpg.Pool, kraken: CountedSimulator
) -> None:
    class Cancelling(KrakenRest):
        async def fetch_trades_page(self, pair, since=0):  # type: ignore[no-untyped-def]
            await cancel_backfills(pool)
            return await super().fetch_trades_page(pair, since)

    async with Cancelling(kraken.rest_url, NoLimit()) as rest:
        with pytest.raises(BackfillStopped, match=r"^the backfill of BTC/USDT was cancelled: "):
            await backfill_symbol(pool, SYMBOL, rest=rest)
