"""More trades in one instant than a page of REST holds: fetching goes on behind it, and does not ask for ever."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest
from structlog.testing import capture_logs

from kraken_history.completeness.holes import count_missing, find_due_holes, missing_of
from kraken_history.completeness.unreachable import find_unreachable
from kraken_history.errors import MisleadingPage
from kraken_history.fetching.backfill import BackfillRunner, fetch_all_trades
from kraken_history.fetching.backfill_targets import Backfill, list_backfills, request_backfill
from kraken_history.fetching.gaps import GapFiller
from kraken_history.fetching.healing import heal
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import TRADES_PAGE
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalTrade
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair
from simulator.tape import TapeTrade
from tests.support.kraken import BEGIN_S, BTC, CountedSimulator, NoLimit, page, row, scripted_kraken

SYMBOL = BTC.symbol


@pytest.fixture
async def kraken() -> AsyncIterator[CountedSimulator]:
    """Ten trades, 1,400 in one nanosecond, and 600 after them."""
    async with CountedSimulator((SYMBOL,), history=0) as kraken:
        kraken.emit(10)
        kraken.emit_at_once(1400)
        kraken.emit(600)
        yield kraken


@pytest.fixture
async def rest(kraken: CountedSimulator) -> AsyncIterator[KrakenRest]:
    async with KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest:
        yield rest


async def find_pair(_: str) -> Pair:
    return BTC


async def backfill(pool: asyncpg.Pool, rest: KrakenRest) -> Backfill:
    await request_backfill(pool, SYMBOL, end=datetime.now(UTC))
    await BackfillRunner(pool, Store(pool), rest, second_look_s=0.01).run(BTC)
    (backfill,) = await list_backfills(pool)
    return backfill


async def stored(pool: asyncpg.Pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM trades"))


def lost_of(kraken: CountedSimulator) -> range:
    """The ids behind the first thousand of the instant."""
    first = kraken.ids(SYMBOL)[0]
    return range(first + 1010, first + 1410)


async def test_a_backfill_goes_on_behind_it(pool: asyncpg.Pool, kraken: CountedSimulator, rest: KrakenRest) -> None:
    """It once failed with 1,000 of 2,000 trades, and nothing behind the instant could be had."""
    done = await backfill(pool, rest)

    assert (done.state, done.reason, done.trades) == ("done", "", 1610)
    lost = lost_of(kraken)
    assert await count_missing(pool) == {SYMBOL: 400}
    assert [*(await find_unreachable(pool))[SYMBOL]] == [(lost.start, lost.stop)]
    assert await pool.fetchval("SELECT count(*) FROM absence_evidence") == 0
    assert len(kraken.calls) <= 7


async def test_what_cannot_be_had_is_missing_with_a_reason_and_not_asked_for_again(
    pool: asyncpg.Pool, migrated_database_url: str, kraken: CountedSimulator, rest: KrakenRest
) -> None:
    await backfill(pool, rest)
    lost = lost_of(kraken)
    kraken.calls.clear()

    assert await find_due_holes(pool, now=datetime.now(UTC)) == {}
    assert not await missing_of(pool, SYMBOL, (lost.start, lost.stop))
    healed = await heal(pool, Store(pool), rest, BTC, (lost.start, lost.stop))
    assert (healed.stored, healed.next_since, kraken.calls) == (0, None, [])
    after = await Store(pool).write([next_trade(kraken)])
    assert not after.holes.get(SYMBOL)

    now = datetime.now(UTC)
    async with HistoricalDataProvider(migrated_database_url) as history:
        coverage = await history.get_coverage(SYMBOL, now - timedelta(minutes=30), now)
    (unreachable,) = coverage.unreachable
    assert (unreachable.first_id, unreachable.last_id) == (lost.start, lost.stop - 1)
    assert any(span.start <= unreachable.timestamp < span.end for span in coverage.missing)


def next_trade(kraken: CountedSimulator) -> HistoricalTrade:
    """One more trade than REST has shown."""
    (trade,) = kraken.exchange.emit(1)[SYMBOL]
    return record(trade)


def record(trade: TapeTrade) -> HistoricalTrade:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=trade.time_ns // 1000)
    return HistoricalTrade(trade.id, SYMBOL, moment, Decimal(trade.price), Decimal(trade.volume), "buy", "limit")


async def test_a_fetch_of_all_pages_goes_on_behind_it_and_names_what_kraken_does_not_show(
    kraken: CountedSimulator, rest: KrakenRest
) -> None:
    """It raised at the instant, although a backfill goes on."""
    with capture_logs() as logs:
        shown = {trade.id async for page in fetch_all_trades(rest, BTC) for trade in page.trades}

    lost = lost_of(kraken)
    assert shown == set(kraken.ids(SYMBOL)) - set(lost)
    assert [(log["event"], log["first"], log["last"]) for log in logs] == [
        ("instant_overfull", lost.start, lost.stop - 1)
    ]


async def test_a_kraken_that_repeats_one_page_for_ever_is_an_error() -> None:
    same = page(*(row(1 + n, 5) for n in range(TRADES_PAGE)), last=(BEGIN_S + 5) * 10**9)
    async with scripted_kraken(same) as kraken, KrakenRest(kraken.url, NoLimit()) as rest:
        with pytest.raises(MisleadingPage, match="does not advance"):
            [page async for page in fetch_all_trades(rest, BTC, (BEGIN_S + 5) * 10**9)]

        assert len(kraken.requests) == 1 + 3


async def test_healing_fetches_what_it_can_and_knows_the_rest(
    pool: asyncpg.Pool, kraken: CountedSimulator, rest: KrakenRest
) -> None:
    """The live feed has stored the trades on both sides."""
    trades = all_trades_of(kraken)
    await Store(pool).write([*trades[:5], *trades[-300:]])
    first = trades[0].id

    healed = await heal(pool, Store(pool), rest, BTC, (first + 5, first + 1710), second_look_s=0.01)

    assert (len(healed.missing), healed.next_since, healed.stored) == (0, None, 1610 - 305)
    assert await count_missing(pool) == {SYMBOL: 400}
    assert await find_due_holes(pool, now=datetime.now(UTC)) == {}


def all_trades_of(kraken: CountedSimulator) -> list[HistoricalTrade]:
    tape = kraken.exchange.tapes[SYMBOL]
    return [record(trade) for trade in tape.trades(0, len(tape))]


async def test_gap_filling_ends_without_an_error(
    pool: asyncpg.Pool, kraken: CountedSimulator, rest: KrakenRest
) -> None:
    filler = GapFiller(pool, Store(pool), rest, find_pair, symbols=[SYMBOL], history_days=1, second_look_s=0.01)

    first = await filler.fill_all_gaps()
    second = await filler.detect_gaps()

    assert (first["errors"], first["trades_processed"]) == ([], 1610)
    assert second == []


async def test_trades_that_the_websocket_brought_are_not_lost(
    pool: asyncpg.Pool, kraken: CountedSimulator, rest: KrakenRest
) -> None:
    trades = all_trades_of(kraken)
    await Store(pool).write(trades[1005:1500])

    done = await backfill(pool, rest)

    assert done.state == "done"
    assert await stored(pool) == 2010
    assert await count_missing(pool) == {SYMBOL: 0}


async def test_if_it_is_the_end_of_the_tape_the_backfill_is_done(pool: asyncpg.Pool) -> None:
    async with CountedSimulator((SYMBOL,), history=0) as kraken:
        kraken.emit_at_once(1400)
        async with KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest:
            done = await backfill(pool, rest)
            assert (done.state, done.trades) == ("done", 1000)
            assert await find_unreachable(pool) == {}

            kraken.emit(5)
            done = await backfill(pool, rest)

    assert (done.state, await stored(pool)) == ("done", 1005)
    assert await find_due_holes(pool, now=datetime.now(UTC)) == {}
    assert await count_missing(pool) == {SYMBOL: 400}
