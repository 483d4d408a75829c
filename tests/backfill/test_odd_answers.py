"""Backfills from a Kraken that says odd things."""

from collections.abc import Sequence
from decimal import Decimal

import asyncpg
import pytest

from kraken_history.completeness.holes import find_holes
from kraken_history.errors import BackfillStopped, KrakenBusy, MisleadingPage, ServiceUnavailable
from kraken_history.fetching.backfill import (
    MOST_FAILURES,
    BackfillRunner,
    backfill_symbol,
    fetch_all_trades,
    fetch_trades_page,
)
from kraken_history.fetching.backfill_targets import Backfill, list_backfills, request_backfill
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import TRADES_PAGE
from kraken_history.records import UnreadableRow
from kraken_history.storing.store import Store
from tests.support.kraken import BEGIN_S, BTC, NoLimit, full_page, page, row, scripted_kraken

SYMBOL = "BTC/USDT"
NS = 10**9
POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


async def run(pool: asyncpg.Pool, *answers: str) -> tuple[Backfill, list[int]]:
    """One run against these answers; the backfill then, and what Kraken was asked."""
    await request_backfill(pool, SYMBOL)
    async with scripted_kraken(*answers) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=1) as rest:
        await BackfillRunner(pool, Store(pool), rest, second_look_s=0.01).run(BTC)
        (backfill,) = await list_backfills(pool)
        return backfill, [int(request["since"]) for request in kraken.requests]


@POSTGRESQL
async def test_rows_without_identity_are_counted_and_time_goes_on(pool: asyncpg.Pool) -> None:
    """The second page repeats the last row of the first, which is not counted again."""
    zero = row(0, 2000)
    backfill, asked = await run(
        pool, full_page(None, 0), full_page(None, 999), *2 * [page(row(None, 1998), zero, row(3, 2001))]
    )

    assert asked == [0, (BEGIN_S + 999) * NS, *2 * [(BEGIN_S + 1998) * NS]]
    assert (backfill.state, backfill.unidentified, backfill.trades) == ("done", 1999 + 1, 1)
    assert [r["id"] for r in await pool.fetch("SELECT id FROM trades")] == [3]


@POSTGRESQL
async def test_without_last_the_newest_row_is_gone_on_from(pool: asyncpg.Pool) -> None:
    backfill, asked = await run(pool, full_page(1, 0, has_last=False), *2 * [page(row(1000, 999), row(1001, 1000))])

    assert asked == [0, *2 * [(BEGIN_S + 999) * NS - 1000]]
    assert (backfill.state, backfill.trades) == ("done", 1001)


@POSTGRESQL
async def test_a_full_page_that_does_not_advance_is_an_alarm(pool: asyncpg.Pool) -> None:
    """Kraken repeats one page for ever, whatever it is asked for."""
    instant = [row(1001 + n, 999) for n in range(TRADES_PAGE)]
    backfill, asked = await run(pool, full_page(1, 0), page(*instant, last=(BEGIN_S + 999) * NS))

    assert (backfill.state, backfill.pages, len(asked)) == ("failed", 2, 2 + 3)  # three steps past the instant
    assert await pool.fetchval("SELECT count(*) FROM trades") == 2 * TRADES_PAGE
    assert "does not advance" in backfill.reason
    assert backfill.lease_until is None


@POSTGRESQL
async def test_a_page_that_begins_in_another_time_is_an_alarm(pool: asyncpg.Pool) -> None:
    """A cursor that was taken for another unit would lead back to the beginning."""
    backfill, asked = await run(pool, full_page(1, 5000), page(row(1, 0)))

    assert (backfill.state, len(asked)) == ("failed", 3)
    assert "begins at 2023-11-14 22:13:20" in backfill.reason


@POSTGRESQL
async def test_a_page_of_an_earlier_request_is_asked_for_again(pool: asyncpg.Pool) -> None:
    """A cache before Kraken once gave the page before again, and the backfill failed for good."""
    first, last = full_page(1, 0), page(row(1000, 999), row(1001, 1000))
    stale = page(row(1, 0), row(2, 1))
    backfill, asked = await run(pool, first, stale, last)

    cursor = (BEGIN_S + 999) * NS
    assert (backfill.state, backfill.reason, backfill.trades) == ("done", "", 1001)
    assert asked == [0, *3 * [cursor]]  # the stale page, the last one, and the second look at that


@POSTGRESQL
async def test_a_pair_that_kraken_refuses_fails_with_its_words(pool: asyncpg.Pool) -> None:
    backfill, _ = await run(pool, '{"error":["EQuery:Unknown asset pair"]}')

    assert (backfill.state, backfill.reason) == ("failed", "Kraken answered: EQuery:Unknown asset pair")


@POSTGRESQL
async def test_an_answer_that_is_no_page_is_asked_for_again_but_not_for_ever(pool: asyncpg.Pool) -> None:
    backfill, asked = await run(pool, '{"error":[],"result":{"X":"rows"}}')
    assert (backfill.state, backfill.failures, len(asked)) == ("running", 1, 1)

    for _ in range(MOST_FAILURES - 1):
        async with scripted_kraken('{"error":[],"result":7}') as kraken, KrakenRest(kraken.url, NoLimit()) as rest:
            await BackfillRunner(pool, Store(pool), rest).run(BTC)

    (backfill,) = await list_backfills(pool)
    assert (backfill.state, backfill.next_since) == ("failed", 0)
    assert backfill.reason.startswith("invalid page of Trades")


@POSTGRESQL
async def test_a_row_of_volume_zero_takes_only_itself(pool: asyncpg.Pool) -> None:
    """A backfill once failed at 0 of 100 for good, and nothing behind the row could be reached."""
    rows = [row(1 + n, n) for n in range(100)]
    rows[40][1] = "0.00000000"
    asides: list[object] = []

    async def put_aside(*aside: object) -> None:
        asides.append(aside)

    await request_backfill(pool, SYMBOL)
    async with scripted_kraken(page(*rows)) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=1) as rest:
        await BackfillRunner(pool, Store(pool, put_aside=put_aside), rest, second_look_s=0.01).run(BTC)
        await request_backfill(pool, SYMBOL)
        await BackfillRunner(pool, Store(pool, put_aside=put_aside), rest, second_look_s=0.01).run(BTC)

    (backfill,) = await list_backfills(pool)
    assert (backfill.state, backfill.reason) == ("done", "")
    assert await pool.fetchval("SELECT count(*) FROM trades") == 99
    (refused,) = await pool.fetch("SELECT id, timestamp, reason, row FROM refused_trades")
    assert (refused["id"], refused["timestamp"].timestamp()) == (41, BEGIN_S + 40)
    assert "expected a positive price and volume" in refused["reason"]
    assert '"0.00000000"' in refused["row"]
    assert len(asides) == 1
    assert await find_holes(pool) == {}


@POSTGRESQL
async def test_a_full_page_of_which_the_last_row_is_refused_is_followed_by_the_next(pool: asyncpg.Pool) -> None:
    rows = [row(1 + n, n) for n in range(TRADES_PAGE)]
    rows[-1][0] = "NaN"
    rest = page(rows[-1], row(1001, 1000))
    backfill, _ = await run(pool, page(*rows, last=(BEGIN_S + 999) * NS), rest, rest)

    assert (backfill.state, backfill.trades) == ("done", 1000)
    assert await pool.fetchval("SELECT id FROM refused_trades") == 1000


@POSTGRESQL
async def test_a_row_that_the_database_refuses_takes_only_itself(pool: asyncpg.Pool) -> None:
    rows = [row(1 + n, n) for n in range(30)]
    rows[7][5] = "a\x00b"
    backfill, _ = await run(pool, page(*rows))

    assert (backfill.state, backfill.trades) == ("done", 29)
    assert await pool.fetchval("SELECT id FROM refused_trades") == 8


@POSTGRESQL
async def test_a_row_whose_id_cannot_be_read_is_put_aside_with_its_reason(pool: asyncpg.Pool) -> None:
    """It was only counted, so that nobody could see what Kraken had sent."""
    rows = [row(1 + n, n) for n in range(10)]
    rows[4][6] = "five"
    asides: list[Sequence[UnreadableRow]] = []

    async def put_aside(refused: object, reused: object, unreadable: Sequence[UnreadableRow]) -> None:
        assert not refused
        assert not reused
        asides.append(unreadable)

    await request_backfill(pool, SYMBOL)
    async with scripted_kraken(page(*rows)) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=1) as rest:
        await BackfillRunner(pool, Store(pool, put_aside=put_aside), rest, second_look_s=0.01).run(BTC)

    (backfill,) = await list_backfills(pool)
    assert (backfill.state, backfill.trades, backfill.unidentified) == ("done", 9, 1)
    ((unreadable,),) = asides
    assert unreadable.symbol == SYMBOL
    assert "'five'" in unreadable.reason
    assert '"five"' in unreadable.row
    assert [*(await find_holes(pool))[SYMBOL]] == [(5, 6)]  # the row may be any trade


@POSTGRESQL
async def test_a_page_forgives_the_answers_before_it(pool: asyncpg.Pool) -> None:
    await run(pool, '{"error":[],"result":7}')
    backfill, _ = await run(pool, page(row(1, 0)))

    assert (backfill.state, backfill.failures, backfill.reason) == ("done", 0, "")


@POSTGRESQL
async def test_a_busy_kraken_leaves_the_backfill_to_be_tried_again(pool: asyncpg.Pool) -> None:
    with pytest.raises(KrakenBusy):
        await run(pool, full_page(1, 0), '{"error":["EService:Unavailable"]}')

    (backfill,) = await list_backfills(pool)
    assert (backfill.state, backfill.pages, backfill.lease_until) == ("running", 1, None)
    assert (backfill.reason, backfill.failures) == ("Kraken answered: EService:Unavailable", 0)


@POSTGRESQL
@pytest.mark.parametrize("body", ["", "null", '{"error":[],"result":{"XXBT', "<html>"])
async def test_an_empty_or_cut_answer_is_waited_for_however_often_it_comes(pool: asyncpg.Pool, body: str) -> None:
    """Five of them once ended the backfill after 4.4 s, although a page of the proxy in front was waited for."""
    for _ in range(MOST_FAILURES + 1):
        with pytest.raises(KrakenBusy):
            await run(pool, body)

    backfill, _ = await run(pool, page(row(1, 0)))
    assert (backfill.state, backfill.failures, backfill.trades) == ("done", 0, 1)


async def test_a_body_that_cannot_be_unpacked_is_an_outage() -> None:
    async with scripted_kraken(page(row(1, 0))) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=2) as rest:
        kraken.headers["Content-Encoding"] = "gzip"
        with pytest.raises(ServiceUnavailable, match="no answer from Kraken"):
            await rest.fetch_trades_page(BTC)

        assert len(kraken.requests) == 2


@POSTGRESQL
async def test_of_a_page_over_months_the_database_refuses_single_rows_too(pool: asyncpg.Pool) -> None:
    """Such a page is stored in parts, each in a transaction of its own."""
    day = 86_400
    rows = [row(1 + n, n * day) for n in range(60)]
    for bad in rows[:10]:
        bad[5] = "a\x00b"
    backfill, _ = await run(pool, page(*rows))

    assert (backfill.state, backfill.trades) == ("done", 50)
    assert await pool.fetchval("SELECT count(*) FROM refused_trades") == 10


@POSTGRESQL
async def test_what_the_database_refuses_fails_with_the_reason_and_is_not_silent(pool: asyncpg.Pool) -> None:
    await pool.execute("ALTER TABLE candles ADD CONSTRAINT cheap CHECK (high < 30000)")

    await request_backfill(pool, SYMBOL)
    answers = [page(*(row(n, n) for n in range(1, 21)))] * 2 * MOST_FAILURES
    async with scripted_kraken(*answers) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=1) as rest:
        for tried in range(MOST_FAILURES):
            (backfill,) = await list_backfills(pool)
            assert (backfill.state, backfill.failures) == ("running", tried)
            with pytest.raises(asyncpg.CheckViolationError):
                await BackfillRunner(pool, Store(pool), rest, second_look_s=0.01).run(BTC)

    (backfill,) = await list_backfills(pool)
    assert backfill.state == "failed"
    assert backfill.reason.startswith("CheckViolationError")
    assert await pool.fetchval("SELECT count(*) FROM trades") == 0


@POSTGRESQL
async def test_a_failed_backfill_fails_the_call(pool: asyncpg.Pool) -> None:
    answer = '{"error":["EGeneral:Invalid arguments"]}'
    async with scripted_kraken(answer) as kraken, KrakenRest(kraken.url, NoLimit()) as rest:
        with pytest.raises(BackfillStopped) as stopped:
            await backfill_symbol(pool, SYMBOL, rest=rest)

    reason = "Kraken answered: EGeneral:Invalid arguments"
    assert (stopped.value.state, stopped.value.reason) == ("failed", reason)
    assert str(stopped.value) == f"the backfill of BTC/USDT has failed ({reason}): request it again to continue"


async def test_all_pages_come_in_turn_and_end_at_the_tip() -> None:
    answers = full_page(1, 0), page(row(1000, 999), row(1001, 1000))
    async with scripted_kraken(*answers) as kraken, KrakenRest(kraken.url, NoLimit()) as rest:
        pages = [[trade.id for trade in page.trades] async for page in fetch_all_trades(rest, BTC)]

    assert [(ids[0], ids[-1]) for ids in pages] == [(1, 1000), (1000, 1001)]


async def test_a_page_is_asked_for_and_checked() -> None:
    async with scripted_kraken(page(row(9, 0), last=17)) as kraken, KrakenRest(kraken.url, NoLimit()) as rest:
        got = await fetch_trades_page(rest, BTC, 5)

    assert (got.last, got.trades[0].price) == (17, Decimal("30000.10000"))


async def test_a_short_page_need_not_advance() -> None:
    rows = [row(None, 0)] * TRADES_PAGE
    since = (BEGIN_S + 1) * NS
    for answer in page(last=since), page(*rows[1:], last=since):
        async with scripted_kraken(answer) as kraken, KrakenRest(kraken.url, NoLimit()) as rest:
            await fetch_trades_page(rest, BTC, since)

    async with scripted_kraken(page(*rows, last=since)) as kraken, KrakenRest(kraken.url, NoLimit()) as rest:
        with pytest.raises(MisleadingPage, match="does not advance"):
            await fetch_trades_page(rest, BTC, since)


@POSTGRESQL
async def test_a_tape_that_seems_to_end_early_is_looked_at_twice(pool: asyncpg.Pool) -> None:
    # A short answer was taken for the end of the tape, however far from the target: the rest was never fetched.
    backfill, asked = await run(pool, page(row(1, 0)), full_page(1, 0), page(row(1000, 999)), page(row(1000, 999)))

    assert asked == [0, 0, (BEGIN_S + 999) * NS, (BEGIN_S + 999) * NS]
    assert (backfill.state, backfill.trades) == ("done", 1000)


@POSTGRESQL
async def test_an_answer_without_the_trade_that_was_seen_there_is_no_end(pool: asyncpg.Pool) -> None:
    backfill, _ = await run(pool, full_page(1, 0), page(), page())

    assert (backfill.state, backfill.failures) == ("running", 1)
    assert "lacks a trade that is known there" in backfill.reason


@POSTGRESQL
async def test_an_answer_without_trades_that_are_stored_is_no_end(pool: asyncpg.Pool) -> None:
    # A backfill was done without a trade after two empty answers, though the live feed had stored some.
    await run(pool, page(row(7, 0)), page(row(7, 0)))
    backfill, asked = await run(pool, page())

    assert (backfill.state, backfill.failures, len(asked)) == ("running", 1, 2)
    assert "lacks a trade that is known there" in backfill.reason


@POSTGRESQL
async def test_a_partition_that_retention_drops_meanwhile_is_made_again(pool: asyncpg.Pool) -> None:
    # The runner remembered that the day had a partition, and the backfill failed.
    await request_backfill(pool, SYMBOL)
    answers = (full_page(1, 0), full_page(1000, 999), page(row(1999, 1998)), page(row(1999, 1998)))
    async with scripted_kraken(*answers) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=1) as rest:
        store = Store(pool)
        await BackfillRunner(pool, store, rest, run_s=0, second_look_s=0.01).run(BTC)
        await store.write((await fetch_trades_page(rest, BTC)).trades)
        await pool.execute("DROP TABLE trades_20231114")
        await BackfillRunner(pool, store, rest, second_look_s=0.01).run(BTC)

    (backfill,) = await list_backfills(pool)
    assert backfill.state == "done"
