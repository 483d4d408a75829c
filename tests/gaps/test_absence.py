"""Ids that Kraken does not have are proven absent by two looks, a minute apart, and never asked for again."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from msgspec.structs import replace

from kraken_history.completeness.absence import find_waiting, note_passed_over
from kraken_history.completeness.holes import find_holes
from kraken_history.fetching.gaps import GapFiller
from kraken_history.fetching.pages import TapePage, TapeRequest, passed_over
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import TRADES_PAGE, TradesPage
from kraken_history.ledger import IdRanges
from kraken_history.storing.store import Store
from simulator import Simulator
from tests.gaps.conftest import PAIR, SYMBOL, Counting
from tests.gaps.truth import true_ids
from tests.support.absent import absent_ids
from tests.support.database import stored_ids
from tests.support.exchanges import ManualClock
from tests.support.kraken import all_trades
from tests.support.records import trade, trades

Now = Callable[[], datetime]
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


async def absent(pool: asyncpg.Pool) -> IdRanges:
    return IdRanges(await absent_ids(pool))


async def evidence(pool: asyncpg.Pool) -> int:
    count: int = await pool.fetchval("SELECT count(*) FROM absence_evidence")
    return count


def believed(answer: TradesPage) -> TapePage:
    return TapeRequest("BTC/USDT", 0, None, begins_with_a_trade=False).page(answer, NOON)


class TestWhatAPagePassesOver:
    def test_is_between_its_first_and_its_last(self) -> None:
        assert passed_over(believed(TradesPage(trades([5, 6, 9, 10, 14]), 0))) == IdRanges([(7, 9), (11, 14)])

    @pytest.mark.parametrize("ids", [[], [7], [7, 8, 9]], ids=str)
    def test_is_nothing_where_nothing_is_left_out(self, ids: list[int]) -> None:
        assert not passed_over(believed(TradesPage(trades(ids), 0)))

    def test_does_not_end_in_an_instant_that_may_go_on_on_the_next_page(self) -> None:
        rows = trades([*range(1, TRADES_PAGE - 3), TRADES_PAGE])
        last = trade(TRADES_PAGE)
        tail = [replace(last, id=id_) for id_ in (TRADES_PAGE + 2, TRADES_PAGE + 4, TRADES_PAGE + 7)]
        page = TradesPage([*rows, *tail], 0)

        assert page.rows == TRADES_PAGE
        assert passed_over(believed(page)) == IdRanges([(TRADES_PAGE - 3, TRADES_PAGE)])

    def test_may_end_there_on_a_page_that_is_not_full(self) -> None:
        assert passed_over(believed(TradesPage([trade(1), trade(4)], 0))) == IdRanges([(2, 4)])


class TestTheProof:
    async def test_takes_two_looks_a_minute_apart(self, pool: asyncpg.Pool, store: Store) -> None:
        await store.write(trades([1, 2, 6, 7]))
        ids = IdRanges([(3, 6)])

        assert not await note_passed_over(pool, "BTC/USDT", ids, seen_at=NOON)
        assert not await note_passed_over(pool, "BTC/USDT", ids, seen_at=NOON + timedelta(seconds=59))
        assert await find_holes(pool) == {"BTC/USDT": ids}
        assert await find_waiting(pool, now=NOON + timedelta(seconds=59)) == {"BTC/USDT": ids}
        assert await find_waiting(pool, now=NOON + timedelta(seconds=60)) == {}
        assert await note_passed_over(pool, "BTC/USDT", ids, seen_at=NOON + timedelta(seconds=60)) == ids
        assert await find_holes(pool) == {}
        assert await absent(pool) == ids
        assert await evidence(pool) == 0

    async def test_is_about_the_ids_that_both_passed_over(self, pool: asyncpg.Pool, store: Store) -> None:
        await store.write(trades([1, 9]))
        await note_passed_over(pool, "BTC/USDT", IdRanges([(2, 6)]), seen_at=NOON)
        proven = await note_passed_over(pool, "BTC/USDT", IdRanges([(4, 9)]), seen_at=NOON + timedelta(minutes=2))

        assert proven == await absent(pool) == IdRanges([(4, 6)])
        assert await find_holes(pool) == {"BTC/USDT": IdRanges([(2, 4), (6, 9)])}

    async def test_does_not_concern_what_is_held(self, pool: asyncpg.Pool, store: Store) -> None:
        await store.write(trades([1, 9]))
        await note_passed_over(pool, "BTC/USDT", IdRanges([(2, 9)]), seen_at=NOON)
        await store.write(trades([3, 4]))
        proven = await note_passed_over(pool, "BTC/USDT", IdRanges([(2, 9)]), seen_at=NOON + timedelta(minutes=2))

        assert proven == IdRanges([(2, 3), (5, 9)])

    async def test_evidence_is_forgotten_when_its_trades_turn_up(self, pool: asyncpg.Pool, store: Store) -> None:
        await store.write(trades([1, 9, 20]))
        await note_passed_over(pool, "BTC/USDT", IdRanges([(2, 9)]), seen_at=NOON)
        await store.write(trades(range(2, 9)))
        await note_passed_over(pool, "BTC/USDT", IdRanges([(10, 11)]), seen_at=NOON)

        assert await pool.fetchval("SELECT ids::text FROM absence_evidence") == "{[10,11)}"

    async def test_a_trade_that_turns_up_after_all_is_stored(self, pool: asyncpg.Pool, store: Store) -> None:
        await store.write(trades([1, 9]))
        for seen_at in (NOON, NOON + timedelta(minutes=1)):
            await note_passed_over(pool, "BTC/USDT", IdRanges([(2, 9)]), seen_at=seen_at)
        await store.write(trades([5]))

        assert await stored_ids(pool) == [1, 5, 9]
        assert await absent(pool) == IdRanges([(2, 5), (6, 9)])
        assert await find_holes(pool) == {}

    async def test_nothing_is_kept_of_a_symbol_without_a_ledger(self, pool: asyncpg.Pool) -> None:
        await note_passed_over(pool, "ETH/USDT", IdRanges([(2, 9)]), seen_at=NOON)

        assert await evidence(pool) == 0


class TestAgainstKraken:
    async def test_ids_that_it_never_gave_are_asked_for_twice_and_then_no_more(
        self, pool: asyncpg.Pool, filler: GapFiller, kraken: Simulator, limiter: Counting, clock: ManualClock, now: Now
    ) -> None:
        await filler.fill_all_gaps()
        kraken.skip_ids(SYMBOL, 3)
        clock.advance(60)
        kraken.emit(200)
        skipped = IdRanges.of(true_ids(kraken, SYMBOL)).holes
        assert len(skipped) == 3
        clock.advance(300)
        first = await filler.fill_all_gaps()
        assert await find_holes(pool) == {SYMBOL: skipped}
        assert (await find_waiting(pool, now=now()))[SYMBOL] == skipped
        calls = limiter.calls
        waiting = await filler.fill_all_gaps()
        assert limiter.calls == calls
        clock.advance(61)
        second = await filler.fill_all_gaps()
        calls = limiter.calls
        third = await filler.fill_all_gaps()

        assert (first["gaps_detected"], first["gaps_filled"], first["trades_processed"]) == (1, 0, 200)
        assert (waiting["gaps_detected"], waiting["gaps_filled"]) == (1, 0)
        assert (second["gaps_detected"], second["gaps_filled"], second["trades_processed"]) == (1, 1, 0)
        assert third["gaps_detected"] == 0
        assert limiter.calls == calls
        assert await absent(pool) == skipped
        assert await stored_ids(pool) == true_ids(kraken, SYMBOL)

    async def test_the_simulator_is_as_true_as_before(self, kraken: Simulator, rest: KrakenRest) -> None:
        kraken.skip_ids(SYMBOL, 2)
        kraken.emit(50)
        ids = true_ids(kraken, SYMBOL)

        assert ids[-1] - ids[0] + 1 == len(ids) + 2
        assert [t.id for t in await all_trades(rest, PAIR)] == ids
