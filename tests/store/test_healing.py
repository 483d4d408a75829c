"""Holes inside the ledger: found, located in time, fetched."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kraken_history.completeness.hole_times import since_before
from kraken_history.completeness.holes import find_holes, missing_of
from kraken_history.fetching.healing import heal
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.pairs import PairMap
from kraken_history.kraken.rest import TRADES_PAGE, TradesPage
from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalTrade
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair
from tests.support.absent import make_absent
from tests.support.contents import ledger, stored_trades
from tests.support.examples import NOON, make_candle, make_trade
from tests.support.kraken import CountingLimiter

PAIR = PairMap().find("BTC/USDT")
SECOND = timedelta(seconds=1)
ONE_MINUTE_NS = 60 * 10**9


def history(count: int, *, every: timedelta = 20 * SECOND) -> list[HistoricalTrade]:
    """Trades 1 … count, the first at noon."""
    return [make_trade(id_, NOON + (id_ - 1) * every) for id_ in range(1, count + 1)]


def without(trades: Sequence[HistoricalTrade], *missing: int) -> list[HistoricalTrade]:
    return [trade for trade in trades if trade.id not in missing]


def ns(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000


class Tape(KrakenRest):
    """Kraken's whole history of one pair, answered in pages from ``since`` on, as REST does."""

    def __init__(self, trades: Sequence[HistoricalTrade]) -> None:
        super().__init__("http://127.0.0.1:9", CountingLimiter())
        self.trades = trades
        self.asked: list[int] = []

    async def fetch_trades_page(self, pair: Pair, since: int = 0) -> TradesPage:
        assert pair == PAIR
        self.asked.append(since)
        page = [trade for trade in self.trades if ns(trade.timestamp) >= since][:TRADES_PAGE]
        return TradesPage(page, ns(page[-1].timestamp) if page else since)


# Finding


async def test_holes_are_found_by_symbol(store: Store, pool: asyncpg.Pool) -> None:
    await store.write(without(history(9), 3, 6, 7))
    await store.write([make_trade(id_, symbol="ETH/USDT") for id_ in (1, 2, 3)])

    assert await find_holes(pool) == {"BTC/USDT": IdRanges.of([3, 6, 7])}


async def test_a_ledger_that_holds_nothing_has_no_hole(store: Store, pool: asyncpg.Pool) -> None:
    await store.write(candles=[make_candle()])

    assert await find_holes(pool) == {}


async def test_ids_proven_absent_are_neither_a_hole_nor_missing(store: Store, pool: asyncpg.Pool) -> None:
    await store.write(without(history(9), 3, 6, 7))
    await make_absent(pool, (6, 8))

    assert await find_holes(pool) == {"BTC/USDT": IdRanges.of([3])}
    assert await missing_of(pool, "BTC/USDT", (1, 10)) == IdRanges.of([3])


async def test_what_is_missing_of_a_range_is_what_the_ledger_lacks(store: Store, pool: asyncpg.Pool) -> None:
    await store.write(without(history(9), 3, 6, 7))

    assert await missing_of(pool, "BTC/USDT", (3, 7)) == IdRanges.of([3, 6])
    assert await missing_of(pool, "BTC/USDT", (4, 6)) == IdRanges()
    assert await missing_of(pool, "BTC/USDT", (8, 12)) == IdRanges.of([10, 11])


# Locating


async def test_fetching_starts_at_the_last_trade_before_the_hole(store: Store, pool: asyncpg.Pool) -> None:
    trades = history(30)
    await store.write(without(trades, 20, 21))

    since = await since_before(pool, "BTC/USDT", 20)

    before = ns(trades[18].timestamp)
    assert before - ONE_MINUTE_NS < since <= before


async def test_a_hole_inside_a_minute_whose_candle_is_the_exchanges_is_still_located(
    store: Store, pool: asyncpg.Pool
) -> None:
    """The exchange's candle is fuller just because trades are missing, and tells no ids."""
    trades = history(30, every=4 * SECOND)
    await store.write(without(trades, 20, 21), [make_candle(NOON + timedelta(minutes=1), trade_count=15)])

    since = await since_before(pool, "BTC/USDT", 20)

    assert ns(NOON) < since <= ns(trades[19].timestamp)


async def test_a_hole_among_candles_that_are_all_the_exchanges_is_still_located(
    store: Store, pool: asyncpg.Pool
) -> None:
    trades = history(30)
    minutes = sorted({trade.timestamp.replace(second=0) for trade in trades})
    await store.write(without(trades, 20, 21), [make_candle(minute, trade_count=99) for minute in minutes])

    since = await since_before(pool, "BTC/USDT", 20)

    assert 0 < since <= ns(trades[19].timestamp)


async def test_a_hole_whose_neighbours_were_dropped_by_retention_is_still_located(
    store: Store, pool: asyncpg.Pool
) -> None:
    trades = history(30)
    await store.write(without(trades, 20, 21))
    await pool.execute("DELETE FROM trades WHERE id < 28")

    since = await since_before(pool, "BTC/USDT", 20)

    assert 0 < since <= ns(trades[19].timestamp)


async def test_a_hole_of_which_all_trades_were_dropped_is_still_located(store: Store, pool: asyncpg.Pool) -> None:
    trades = history(30)
    await store.write(without(trades, 20, 21))
    await pool.execute("DELETE FROM trades")
    await pool.execute("DELETE FROM candles")

    since = await since_before(pool, "BTC/USDT", 20)

    assert 0 < since <= ns(trades[19].timestamp)


async def test_trades_of_another_symbol_locate_nothing(store: Store, pool: asyncpg.Pool) -> None:
    trades = history(9)
    others = [make_trade(id_, trades[4].timestamp + SECOND, symbol="ETH/USDT") for id_ in (1, 2, 3)]
    await store.write([*without(trades, 5), *others])

    assert 0 < await since_before(pool, "BTC/USDT", 5) <= ns(trades[4].timestamp)


async def test_where_nothing_is_held_fetching_starts_at_the_beginning(pool: asyncpg.Pool) -> None:
    assert await since_before(pool, "BTC/USDT", 5) == 0


@st.composite
def broken_histories(draw: st.DrawFn) -> tuple[list[HistoricalTrade], set[int], list[int]]:
    """A history whose times never go back, the ids that are held of it, and minutes with the exchange's candles."""
    pauses = draw(st.lists(st.integers(0, 50_000), min_size=3, max_size=40))
    moments = [NOON + timedelta(milliseconds=sum(pauses[: at + 1])) for at in range(len(pauses))]
    trades = [make_trade(id_, moment) for id_, moment in enumerate(moments, 1)]
    held = draw(st.sets(st.sampled_from(range(2, len(trades))))) | {1, len(trades)}
    return trades, held, draw(st.lists(st.integers(0, 12), max_size=6, unique=True))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(broken=broken_histories())
async def test_fetching_from_where_a_hole_is_located_meets_its_first_trade(
    pool: asyncpg.Pool, broken: tuple[list[HistoricalTrade], set[int], list[int]]
) -> None:
    trades, held, minutes = broken
    await pool.execute("TRUNCATE trades, candles, data_sync_status, sync_keys, unheld_ids")
    theirs = [make_candle(NOON + timedelta(minutes=minute), trade_count=50) for minute in minutes]
    await Store(pool).write([trade for trade in trades if trade.id in held], theirs)

    for first, _ in (await find_holes(pool)).get("BTC/USDT", IdRanges()):
        since = await since_before(pool, "BTC/USDT", first)
        assert 0 < since <= ns(trades[first - 1].timestamp)


# Fetching


@pytest.fixture
async def tape() -> Tape:
    return Tape(history(4000))


async def test_a_hole_is_filled_with_the_trades_of_kraken(store: Store, pool: asyncpg.Pool, tape: Tape) -> None:
    await store.write(without(tape.trades[:100], 50, 51, 52))

    healed = await heal(pool, store, tape, PAIR, (50, 53))

    assert (healed.missing, healed.pages, healed.next_since) == (IdRanges(), 1, None)
    assert healed.stored >= 3
    assert (await stored_trades(pool))[:100] == tape.trades[:100]
    assert await find_holes(pool) == {}


async def test_a_hole_longer_than_a_page_is_filled_page_by_page(store: Store, pool: asyncpg.Pool, tape: Tape) -> None:
    await store.write([*tape.trades[:10], *tape.trades[2600:2610]])

    healed = await heal(pool, store, tape, PAIR, (11, 2601))

    assert (healed.missing, healed.pages, healed.next_since) == (IdRanges(), 3, None)
    assert await ledger(pool) == {"BTC/USDT": IdRanges([(1, len(await stored_trades(pool)) + 1)])}


async def test_a_long_hole_becomes_several_short_jobs(store: Store, pool: asyncpg.Pool, tape: Tape) -> None:
    await store.write([*tape.trades[:10], *tape.trades[2600:2610]])

    first = await heal(pool, store, tape, PAIR, (11, 2601), max_pages=1)
    second = await heal(pool, store, tape, PAIR, (11, 2601), since=first.next_since)

    assert first.pages == 1
    assert first.missing
    assert first.next_since is not None
    assert tape.asked[1] == first.next_since
    assert (second.missing, second.next_since) == (IdRanges(), None)


async def test_a_hole_that_closed_by_itself_costs_no_call(store: Store, pool: asyncpg.Pool, tape: Tape) -> None:
    await store.write(tape.trades[:20])

    healed = await heal(pool, store, tape, PAIR, (5, 8))

    assert (healed.missing, healed.stored, healed.pages) == (IdRanges(), 0, 0)
    assert tape.asked == []


async def test_ids_that_kraken_does_not_have_stay_missing(store: Store, pool: asyncpg.Pool) -> None:
    tape = Tape(without(history(40), 20, 21))
    await store.write(without(tape.trades, 22))

    healed = await heal(pool, store, tape, PAIR, (20, 23))

    assert (healed.missing, healed.stored, healed.next_since) == (IdRanges([(20, 22)]), 1, None)


async def test_an_instant_of_more_trades_than_a_page_is_no_error_and_no_endless_loop(
    store: Store, pool: asyncpg.Pool
) -> None:
    instant = NOON + timedelta(hours=1)
    crowd = [make_trade(id_, instant) for id_ in range(11, 11 + 2 * TRADES_PAGE)]
    tape = Tape([*history(10), *crowd])
    await store.write([*tape.trades[:10], crowd[-1]])

    healed = await heal(pool, store, tape, PAIR, (11, crowd[-1].id), second_look_s=0.01)

    assert (healed.stored, healed.next_since) == (TRADES_PAGE, None)
    assert len(tape.asked) < 7


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_decade_of_daily_partitions_is_not_locked_for_one_look(store: Store, pool: asyncpg.Pool) -> None:
    # The bounds of the look came from a subquery, so PostgreSQL locked the partition of every day, and ran out of
    # room for locks at ten years of history.
    days = [NOON - timedelta(days=n) for n in range(1_000)]
    await pool.execute("SELECT ensure_partitions('trades', $1)", days)
    await store.write([make_trade(1), make_trade(3, NOON + timedelta(seconds=2))])

    async with pool.acquire() as connection, connection.transaction():
        assert await since_before(connection, "BTC/USDT", 2) > 0
        locks = await connection.fetchval("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()")

    assert locks < 100
