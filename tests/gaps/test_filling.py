"""Gaps are filled from REST, and what could not be fetched stays a gap."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

import asyncpg
import pytest

from kraken_history.completeness.holes import find_holes
from kraken_history.fetching.gaps import GapFiller, run_gap_filler
from kraken_history.kraken.client import KrakenRest
from kraken_history.records import MINUTE, DataGap, floor_minute
from kraken_history.storing.candle_deltas import build_candles
from kraken_history.storing.store import Store
from simulator import Simulator
from tests.gaps.conftest import PAIR, SYMBOL, Counting, find_pair
from tests.gaps.truth import assert_complete, emit_over, true_ids, without
from tests.support.database import stored_candles, stored_ids
from tests.support.exchanges import ManualClock
from tests.support.kraken import all_trades

Now = Callable[[], datetime]
PLAIN = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


async def time_ranges(pool: asyncpg.Pool, data_type: str) -> list[tuple[datetime, datetime]]:
    ranges = await pool.fetchval(
        "SELECT time_ranges FROM data_sync_status WHERE symbol = $1 AND data_type = $2", SYMBOL, data_type
    )
    return [(each.lower, each.upper) for each in ranges or ()]


class TestAnEmptyDatabase:
    async def test_gets_the_history_that_is_wanted(
        self, pool: asyncpg.Pool, filler: GapFiller, kraken: Simulator, rest: KrakenRest
    ) -> None:
        summary = await filler.fill_all_gaps()

        assert summary == {
            "gaps_detected": 1,
            "gaps_filled": 1,
            "candles_inserted": await pool.fetchval("SELECT count(*) FROM candles"),  # all made by the trades
            "trades_processed": 2_600,
            "errors": [],
        }
        await assert_complete(pool, kraken, rest, PAIR)
        assert await filler.detect_gaps() == []

    @PLAIN
    async def test_gets_no_more_than_is_wanted(
        self, pool: asyncpg.Pool, store: Store, rest: KrakenRest, kraken: Simulator, now: Now
    ) -> None:
        async with Simulator(
            symbols=[SYMBOL], emitting=False, history=3_000, history_hours=72, rest_burst=10**6,
            clock=lambda: int(now().timestamp()) * 10**9,
        ) as long, KrakenRest(long.rest_url, Counting(), attempts=1) as rest:  # fmt: skip
            filler = GapFiller(pool, store, rest, find_pair, symbols=[SYMBOL], history_days=2, now=now)
            await filler.fill_all_gaps()
            wanted = [t.id for t in await all_trades(rest, PAIR) if t.timestamp >= now() - timedelta(days=2)]

        stored = await stored_ids(pool)
        assert 1_900 < len(wanted) < 2_100
        assert stored[-len(wanted) :] == wanted
        assert len(stored) <= len(wanted) + 1

    @PLAIN
    async def test_more_days_wanted_later_are_fetched_before_the_oldest_trade(
        self, pool: asyncpg.Pool, store: Store, rest: KrakenRest, kraken: Simulator, now: Now, clock: ManualClock
    ) -> None:
        newest = (await all_trades(rest, PAIR))[-50:]
        await store.write(newest)
        filler = GapFiller(pool, store, rest, find_pair, symbols=[SYMBOL], history_days=1, now=now)
        gaps = await filler.detect_gaps()

        assert [(gap.start_time, gap.end_time) for gap in gaps] == [(now() - timedelta(days=1), newest[0].timestamp)]
        summary = await filler.fill_all_gaps()
        assert summary["gaps_filled"] == 1
        await assert_complete(pool, kraken, rest, PAIR)


class TestAShortGap:
    async def test_gets_krakens_candles_first_and_then_its_trades(
        self, pool: asyncpg.Pool, filler: GapFiller, store: Store, kraken: Simulator, rest: KrakenRest, now: Now
    ) -> None:
        await filler.fill_all_gaps()
        before = len(await stored_candles(pool))
        emit_over(kraken, 30, 96)
        (gap,) = await filler.detect_gaps()
        inserted = await filler.fill_gap_ohlc(gap)

        truth = build_candles(await all_trades(rest, PAIR))
        closed = [candle for candle in truth if candle.timestamp + MINUTE <= now()]
        got = await stored_candles(pool)
        assert 28 <= inserted == len(got) - before
        assert [(c.timestamp, c.open, c.close, c.trade_count) for c in got] == [
            (c.timestamp, c.open, c.close, c.trade_count) for c in closed
        ]
        assert await filler.has_candles_of(gap)
        stored = await filler.fill_gap_trades(gap)
        assert stored == 30 * 96
        await assert_complete(pool, kraken, rest, PAIR)

    async def test_quiet_minutes_are_covered_and_the_running_candle_is_not(
        self, pool: asyncpg.Pool, filler: GapFiller, clock: ManualClock, now: Now, kraken: Simulator
    ) -> None:
        await filler.fill_all_gaps()
        newest = await pool.fetchval("SELECT max(timestamp) FROM trades")
        clock.advance(10 * 60 + 30)
        kraken.emit(5)  # in the running minute
        summary = await filler.fill_all_gaps()

        assert summary["trades_processed"] == 5
        assert await time_ranges(pool, "candles_1m") == [(floor_minute(newest), floor_minute(now()))]
        assert (await stored_candles(pool))[-1].timestamp == floor_minute(now())  # of trades, and running

    async def test_the_closing_candle_of_a_minute_that_was_cut_is_corrected(
        self, pool: asyncpg.Pool, filler: GapFiller, store: Store, kraken: Simulator, rest: KrakenRest,
        clock: ManualClock,
    ) -> None:  # fmt: skip
        await filler.fill_all_gaps()
        clock.advance(20)
        kraken.emit(40)
        seen = (await all_trades(rest, PAIR))[-40:]
        await store.write(seen)  # in the middle of the minute the socket is cut
        clock.advance(20)
        kraken.emit(30)
        clock.advance(600)
        kraken.emit(60)
        await store.write((await all_trades(rest, PAIR))[-50:])  # the snapshot after connecting again
        partial = {c.timestamp: c.trade_count for c in await stored_candles(pool)}[floor_minute(seen[0].timestamp)]
        assert partial == 40
        (gap,) = await filler.detect_gaps()
        assert await filler.fill_gap_ohlc(gap) == 0  # no minute is new: two are corrected
        corrected = {c.timestamp: c.trade_count for c in await stored_candles(pool)}
        assert corrected[floor_minute(seen[0].timestamp)] == 70
        await filler.fill_gap_trades(gap)
        await assert_complete(pool, kraken, rest, PAIR)


@PLAIN
class TestAQuietSymbol:
    async def test_is_asked_about_once_and_not_again(
        self, filler: GapFiller, clock: ManualClock, limiter: Counting, pool: asyncpg.Pool, now: Now
    ) -> None:
        await filler.fill_all_gaps()
        newest = await pool.fetchval("SELECT max(timestamp) FROM trades")
        clock.advance(40 * 60)
        (gap,) = await filler.detect_gaps()
        assert gap.start_time >= newest
        calls = limiter.calls
        first = await filler.fill_all_gaps()
        spent = limiter.calls - calls
        second = await filler.fill_all_gaps()

        assert spent == 3  # OHLC, and one page, which leaves so much time empty that it is asked for twice
        assert limiter.calls - calls == spent
        assert (first["gaps_detected"], first["gaps_filled"], first["errors"]) == (1, 1, [])
        assert second["gaps_detected"] == 0
        assert (await time_ranges(pool, "trades"))[-1][1] == now() - timedelta(seconds=5)

    async def test_only_the_time_since_is_asked_about_the_next_time(
        self, filler: GapFiller, clock: ManualClock, now: Now
    ) -> None:
        await filler.fill_all_gaps()
        clock.advance(40 * 60)
        await filler.fill_all_gaps()
        asked = now()
        clock.advance(10 * 60)

        (gap,) = await filler.detect_gaps()
        assert (gap.start_time, gap.end_time) == (asked - timedelta(seconds=5), now())

    async def test_its_end_is_no_gap_while_a_connected_feed_has_seen_no_newer_trade(
        self, filler: GapFiller, clock: ManualClock, kraken: Simulator
    ) -> None:
        await filler.fill_all_gaps()
        last = true_ids(kraken, SYMBOL)[-1]
        clock.advance(40 * 60)

        assert await filler.detect_gaps(live_ids={SYMBOL: last}) == []
        assert len(await filler.detect_gaps(live_ids={SYMBOL: last + 1})) == 1  # seen, and not stored yet
        assert len(await filler.detect_gaps(live_ids={"ETH/USDT": last})) == 1

    async def test_an_answer_without_the_trade_that_is_known_proves_nothing(
        self, filler: GapFiller, clock: ManualClock, kraken: Simulator, pool: asyncpg.Pool
    ) -> None:
        await filler.fill_all_gaps()
        clock.advance(40 * 60)
        tape = kraken.exchange.tapes[SYMBOL]
        tape.place_since = lambda since: len(tape)  # type: ignore[method-assign] # an empty page for whatever cursor
        summary = await filler.fill_all_gaps()

        assert summary["gaps_filled"] == 0
        assert len(summary["errors"]) == 1
        assert "lacks a trade that is known there" in summary["errors"][0]
        assert len(await filler.detect_gaps()) == 1


class TestHoles:
    @pytest.mark.parametrize(
        "lost",
        [
            [slice(100, 101)],
            [slice(200, 2_400)],  # longer than two pages
            [slice(at, at + 3) for at in range(50, 2_500, 70)],  # a pass, not a fetch a hole
        ],
        ids=["one trade", "longer than a page", "many close together"],
    )
    async def test_are_gaps_and_are_filled_exactly(
        self, pool: asyncpg.Pool, filler: GapFiller, store: Store, kraken: Simulator, rest: KrakenRest,
        limiter: Counting, lost: list[slice], now: Now,
    ) -> None:  # fmt: skip
        trades = await all_trades(rest, PAIR)
        await filler.fill_all_gaps()
        await pool.execute("TRUNCATE trades, candles, unheld_ids")
        await pool.execute("UPDATE data_sync_status SET lowest_id = NULL, highest_id = NULL")
        kept = without(trades, *lost)
        await store.write(kept)
        calls = limiter.calls
        gaps = await filler.detect_gaps()
        summary = await filler.fill_all_gaps()

        assert len(gaps) == 1
        assert summary["gaps_filled"] == summary["gaps_detected"] == 1
        assert summary["trades_processed"] == len(trades) - len(kept)
        await assert_complete(pool, kraken, rest, PAIR)
        assert limiter.calls - calls <= 3 + 1 + 5  # pages, OHLC, and assert_complete's own

    async def test_at_the_borders_of_minutes_are_filled(
        self, pool: asyncpg.Pool, filler: GapFiller, store: Store, kraken: Simulator, rest: KrakenRest
    ) -> None:
        trades = await all_trades(rest, PAIR)
        borders = [
            at for at in range(1, len(trades) - 1)
            if floor_minute(trades[at - 1].timestamp) != floor_minute(trades[at].timestamp)
        ]  # fmt: skip
        assert len(borders) > 100
        await store.write(without(trades, *(slice(at - at % 2, at - at % 2 + 1) for at in borders[:-1])))
        await filler.fill_all_gaps()

        await assert_complete(pool, kraken, rest, PAIR)

    async def test_are_filled_where_retention_has_dropped_the_trades_around_them(
        self, pool: asyncpg.Pool, filler: GapFiller, store: Store, rest: KrakenRest, limiter: Counting
    ) -> None:
        trades = await all_trades(rest, PAIR)
        await store.write(without(trades, slice(1_500, 1_600)))
        await pool.execute("DELETE FROM trades WHERE timestamp < $1", trades[2_000].timestamp)
        calls = limiter.calls
        (gap,) = [gap for gap in await filler.detect_gaps() if gap.start_time > trades[1_000].timestamp]
        stored = await filler.fill_gap_trades(gap)

        assert stored == 100
        assert limiter.calls - calls == 1  # the candles still tell where to begin
        assert await find_holes(pool) == {}

    @PLAIN
    async def test_are_filled_where_retention_has_dropped_the_candles_too(
        self, pool: asyncpg.Pool, filler: GapFiller, store: Store, rest: KrakenRest
    ) -> None:
        trades = await all_trades(rest, PAIR)
        await store.write(without(trades, slice(1_500, 1_600)))
        await pool.execute("DELETE FROM trades WHERE timestamp < $1", trades[2_000].timestamp)
        await pool.execute("DELETE FROM candles WHERE timestamp < $1", trades[2_000].timestamp)
        await filler.fill_all_gaps()

        assert await find_holes(pool) == {}


@PLAIN
class TestAFailure:
    async def test_is_in_the_summary_and_the_gap_stays(
        self, filler: GapFiller, kraken: Simulator, pool: asyncpg.Pool
    ) -> None:
        await kraken.stop()
        summary = await filler.fill_all_gaps()

        assert summary["gaps_filled"] == 0
        assert len(summary["errors"]) == 1
        assert summary["errors"][0].startswith("BTC/USDT 2026-09-2")
        assert "no answer from Kraken" in summary["errors"][0]
        assert len(await filler.detect_gaps()) == 1

    async def test_in_the_middle_keeps_what_was_fetched(
        self, pool: asyncpg.Pool, store: Store, kraken: Simulator, now: Now, clock: ManualClock
    ) -> None:
        async with (
            Simulator(
                symbols=[SYMBOL],
                emitting=False,
                history=2_600,
                history_hours=6,
                rest_burst=2,
                rest_rate=1e-9,
                clock=clock,
            ) as strict,
            KrakenRest(strict.rest_url, Counting(), attempts=1) as rest,
        ):
            filler = GapFiller(pool, store, rest, find_pair, symbols=[SYMBOL], history_days=1, now=now)
            summary = await filler.fill_all_gaps()
            (gap,) = await filler.detect_gaps()

        assert 1_980 < summary["trades_processed"] == len(await stored_ids(pool)) < 2_000  # two pages, which overlap
        assert summary["gaps_filled"] == 0
        assert "EGeneral:Too many requests" in summary["errors"][0]
        assert gap.start_time == await pool.fetchval("SELECT max(timestamp) FROM trades")

    async def test_of_one_symbol_does_not_keep_another_from_being_filled(
        self, pool: asyncpg.Pool, store: Store, rest: KrakenRest, kraken: Simulator, now: Now
    ) -> None:
        filler = GapFiller(
            pool, store, rest, find_pair, symbols=["ETH/USDT", SYMBOL, "NO/SUCH"], history_days=1, now=now
        )
        summary = await filler.fill_all_gaps(max_concurrent=2)

        assert (summary["gaps_detected"], summary["gaps_filled"]) == (3, 1)
        assert sorted(error.split()[0] for error in summary["errors"]) == ["ETH/USDT", "NO/SUCH"]
        await assert_complete(pool, kraken, rest, PAIR)

    async def test_of_ohlc_does_not_keep_the_trades_from_being_fetched(
        self, filler: GapFiller, kraken: Simulator, rest: KrakenRest, pool: asyncpg.Pool
    ) -> None:
        await filler.fill_all_gaps()
        emit_over(kraken, 10, 60)
        del kraken.rest._methods["OHLC"]
        summary = await filler.fill_all_gaps()

        assert (summary["gaps_filled"], summary["trades_processed"], len(summary["errors"])) == (1, 600, 1)
        assert "Unknown method" in summary["errors"][0]
        await assert_complete(pool, kraken, rest, PAIR)


@PLAIN
class TestALongHoleOfABackfill:
    """A backfill that begins in 2013 leaves, from its first page on, a hole as long as history."""

    @pytest.fixture
    async def backfilled(self, pool: asyncpg.Pool, clock: ManualClock) -> AsyncIterator[Simulator]:
        async with Simulator(
            symbols=[SYMBOL], emitting=False, history=44_000, history_hours=88, rest_burst=10**6, clock=clock
        ) as kraken:
            yield kraken

    @pytest.mark.parametrize("state", ["running", "paused", "cancelled", "failed", "done"])
    async def test_is_left_to_it_but_for_what_is_wanted_anyway(
        self, pool: asyncpg.Pool, store: Store, backfilled: Simulator, now: Now, state: str
    ) -> None:
        async with KrakenRest(backfilled.rest_url, Counting(), attempts=1) as rest:
            tape = backfilled.exchange.tapes[SYMBOL]
            first = await rest.fetch_trades_page(PAIR)
            await store.write(first.trades)
            await store.write((await rest.fetch_trades_page(PAIR, tape.last_time_ns)).trades)
            await pool.execute(
                "INSERT INTO backfills (symbol, target_end, next_since, state) VALUES ($1, $2, $3, $4::backfill_state)",
                SYMBOL, now(), first.last, state,
            )  # fmt: skip
            filler = GapFiller(pool, store, rest, find_pair, symbols=[SYMBOL], history_days=1, now=now)
            found = await filler.detect_gaps()
            await filler.fill_all_gaps()

        assert [gap.duration / timedelta(days=1) for gap in found] == pytest.approx([1.0], abs=0.05)
        assert len((await find_holes(pool))[SYMBOL]) == pytest.approx(31_000, abs=600)

    async def test_is_healed_whole_where_no_backfill_had_to_do_with_it(
        self, pool: asyncpg.Pool, store: Store, backfilled: Simulator, now: Now
    ) -> None:
        async with KrakenRest(backfilled.rest_url, Counting(), attempts=1) as rest:
            tape = backfilled.exchange.tapes[SYMBOL]
            await store.write((await rest.fetch_trades_page(PAIR)).trades)
            await store.write((await rest.fetch_trades_page(PAIR, tape.last_time_ns)).trades)
            await GapFiller(pool, store, rest, find_pair, symbols=[SYMBOL], history_days=1, now=now).fill_all_gaps()

        assert await find_holes(pool) == {}


class TestWithoutRedis:
    async def test_a_new_database_is_filled_for_a_program_that_is_about_to_use_it(
        self, migrated_database_url: str, pool: asyncpg.Pool, clock: ManualClock, now: Now,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        symbols = ["BTC/USDT", "ETH/USDT", "DOGE/USD"]
        limiter = Counting()
        async with Simulator(
            symbols=symbols, emitting=False, history=30_000, history_hours=30 * 24 - 1, rest_burst=10**6, clock=clock
        ) as kraken:
            summary = await run_gap_filler(
                migrated_database_url, symbols=symbols, kraken_rest_url=kraken.rest_url, limiter=limiter, now=now
            )
            again = await run_gap_filler(
                migrated_database_url, symbols=symbols, kraken_rest_url=kraken.rest_url, limiter=limiter, now=now
            )
            expected = sorted((symbol, id_) for symbol in symbols for id_ in true_ids(kraken, symbol))
        with capsys.disabled():
            print(f"\nrun_gap_filler from nothing: {summary}, {limiter.calls} calls")  # noqa: T201

        assert [tuple(row) for row in await pool.fetch("SELECT symbol, id FROM trades ORDER BY symbol, id")] == expected
        assert summary["gaps_detected"] == summary["gaps_filled"] == 3
        assert summary["trades_processed"] == 30_000
        assert summary["errors"] == again["errors"] == []
        assert again["gaps_detected"] == 0


@PLAIN
async def test_by_default_calls_are_spaced_within_the_process(
    migrated_database_url: str, clock: ManualClock, now: Now
) -> None:
    async with Simulator(
        symbols=[SYMBOL], emitting=False, history=1_500, history_hours=6, rest_burst=1, rest_rate=1.0, clock=clock
    ) as kraken:
        summary = await run_gap_filler(
            migrated_database_url, symbols=[SYMBOL], history_days=1, kraken_rest_url=kraken.rest_url, now=now
        )

    assert (summary["gaps_filled"], summary["trades_processed"], summary["errors"]) == (1, 1_500, [])


@PLAIN
async def test_a_gap_that_somebody_names_is_fetched_and_no_more(
    filler: GapFiller, rest: KrakenRest, pool: asyncpg.Pool, limiter: Counting
) -> None:
    trades = await all_trades(rest, PAIR)
    calls = limiter.calls
    gap = DataGap.between(SYMBOL, "trades", trades[100].timestamp, trades[300].timestamp)
    stored = await filler.fill_gap_trades(gap)

    assert limiter.calls - calls == 1
    assert stored == 1_000  # a page
