"""Gaps, filled from a Kraken that says odd things: what it did not show stays a gap."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.completeness.covered_time import find_uncovered
from kraken_history.completeness.gap_length import LONGEST_MIN_GAP_MINUTES
from kraken_history.errors import InvalidNumber
from kraken_history.fetching.gaps import GapFiller, GapSummary, run_gap_filler
from kraken_history.fetching.healing import heal
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import TRADES_PAGE, TradesPage, decode_result, decode_trades_page
from kraken_history.records import HistoricalTrade, TimeRange
from kraken_history.storing.store import Store
from kraken_history.symbols import DEFAULT_SYMBOLS, Pair
from simulator import Simulator
from tests.gaps.conftest import SYMBOL, Counting, find_pair
from tests.support.kraken import BEGIN_S, NoLimit, full_page, page, row, scripted_kraken

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)

TWO_DAYS_S = 2 * 86_400
BEGIN = datetime.fromtimestamp(BEGIN_S, UTC)
NOW = BEGIN + timedelta(seconds=TWO_DAYS_S)
# A trade each ten minutes, the newest just now.
QUIET = [row(n + 1, (n + 1) * 600.0) for n in range(288)]


def trades(*rows: list[object]) -> Sequence[HistoricalTrade]:
    """As the live feed stores them."""
    return decode_trades_page(decode_result(200, page(*rows).encode()), SYMBOL, since=0).trades


def filler_on(pool: asyncpg.Pool, rest: KrakenRest) -> GapFiller:
    """Wants two days."""
    return GapFiller(
        pool, Store(pool), rest, find_pair, symbols=[SYMBOL], history_days=2, now=lambda: NOW, second_look_s=0.01
    )


async def fill(pool: asyncpg.Pool, *answers: str) -> tuple[GapSummary, int, int]:
    """Fill against these answers; the summary, how often Kraken was asked, and the gaps that are left."""
    async with scripted_kraken(*answers) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=1) as rest:
        filler = filler_on(pool, rest)
        summary = await filler.fill_all_gaps()
        return summary, len(kraken.requests), len(await filler.detect_gaps())


@pytest.mark.parametrize(
    "wrong", [page(), page(last=BEGIN_S * 10**9), page(*QUIET[:10])], ids=["empty", "empty with a cursor", "short"]
)
async def test_one_wrong_answer_does_not_make_history_complete(pool: asyncpg.Pool, wrong: str) -> None:
    # An empty answer before the oldest trade was believed at once: the days that are wanted counted as covered for
    # good, and without a single trade.
    summary, asked, left = await fill(pool, wrong, page(*QUIET))

    assert (summary["trades_processed"], summary["errors"]) == (288, [])
    assert (asked, left) == (2, 0)


async def test_a_symbol_that_was_never_traded_is_covered_after_two_answers(pool: asyncpg.Pool) -> None:
    summary, asked, left = await fill(pool, page())

    assert (summary["gaps_filled"], summary["errors"]) == (1, [])
    assert (asked, left) == (2, 0)


async def test_gaps_that_are_filled_at_the_same_time_are_all_counted(pool: asyncpg.Pool) -> None:
    # What one task added to the count while another looked whether its gap was filled was lost.
    answered = asyncio.Barrier(len(DEFAULT_SYMBOLS))

    class Together(KrakenRest):
        async def fetch_trades_page(self, pair: Pair, since: int = 0) -> TradesPage:
            answer = await super().fetch_trades_page(pair, since)
            await answered.wait()
            return answer

    async with scripted_kraken(page()) as kraken, Together(kraken.url, NoLimit(), attempts=1) as rest:
        filler = GapFiller(
            pool, Store(pool), rest, find_pair, symbols=DEFAULT_SYMBOLS, history_days=2, second_look_s=0.01
        )
        summary = await filler.fill_all_gaps(len(DEFAULT_SYMBOLS))

    assert summary["gaps_filled"] == summary["gaps_detected"] == len(DEFAULT_SYMBOLS)


async def test_an_answer_without_trades_that_are_stored_proves_nothing(pool: asyncpg.Pool) -> None:
    await Store(pool).write(trades(*QUIET[-3:]))
    summary, asked, left = await fill(pool, page())

    assert (summary["gaps_filled"], asked, left) == (0, 2, 1)
    assert "lacks a trade that is known there" in summary["errors"][0]


async def test_an_answer_that_ends_before_a_trade_that_is_stored_proves_nothing(pool: asyncpg.Pool) -> None:
    await Store(pool).write(trades(QUIET[-2]))
    summary, _, left = await fill(pool, page(*QUIET[:-2]))

    assert (summary["gaps_filled"], summary["trades_processed"]) == (0, 286)
    assert any("lacks a trade that is known there" in error for error in summary["errors"])
    assert left == 2  # before the first trade: nobody knows that there was none; and after the last


@pytest.mark.parametrize("held", [QUIET[-1:], QUIET[-7:]], ids=["a trade", "trades"])
async def test_an_answer_may_lack_a_trade_of_the_last_seconds(pool: asyncpg.Pool, held: list[list[object]]) -> None:
    # The live feed is ahead of REST: a quiet pair's gap was refused at each of its trades.
    await Store(pool).write(trades(*held))
    summary, _, left = await fill(pool, page(*QUIET[:-1]))

    assert (summary["gaps_filled"], summary["errors"], left) == (summary["gaps_detected"], [], 0)


async def test_an_answer_without_the_last_trade_of_the_page_before_proves_nothing(pool: asyncpg.Pool) -> None:
    summary, asked, left = await fill(pool, full_page(1, 0), page())

    assert (summary["gaps_filled"], summary["trades_processed"], asked, left) == (0, TRADES_PAGE, 3, 1)
    assert "lacks a trade that is known there" in summary["errors"][0]


async def test_a_second_answer_with_less_than_the_first_proves_nothing(pool: asyncpg.Pool) -> None:
    summary, _, left = await fill(pool, page(*QUIET[:20]), page(*QUIET[:10]))

    assert (summary["gaps_filled"], len(summary["errors"]), left) == (0, 1, 2)  # before its trades, and after them


async def test_a_trade_that_is_stored_while_the_answer_is_under_way_may_be_newer_than_it(pool: asyncpg.Pool) -> None:
    class BesideTheFeed(KrakenRest):
        async def fetch_trades_page(self, pair: Pair, since: int = 0) -> TradesPage:
            answer = await super().fetch_trades_page(pair, since)
            await Store(pool).write(trades(row(289, TWO_DAYS_S + 1)))
            return answer

    async with scripted_kraken(page(*QUIET)) as kraken, BesideTheFeed(kraken.url, NoLimit(), attempts=1) as rest:
        summary = await filler_on(pool, rest).fill_all_gaps()

    assert (summary["gaps_filled"], summary["errors"], len(kraken.requests)) == (1, [], 1)


async def test_names_of_krakens_are_filled_under_our_symbols(migrated_database_url: str, pool: asyncpg.Pool) -> None:
    # XBT/USDT was kept as covered, without a trade: these were stored under BTC/USDT.
    async with Simulator(
        symbols=[SYMBOL, "ETH/BTC", "DOGE/USD"], emitting=False, history=600, rest_burst=10**6
    ) as kraken:
        summary = await run_gap_filler(
            migrated_database_url, symbols=["XBT/USDT", "XBTUSDT", "XXBTZUSD.d", "ETHXBT", "xdg/usd"], history_days=1,
            kraken_rest_url=kraken.rest_url, limiter=Counting(),
        )  # fmt: skip

    assert summary["gaps_filled"] == 3
    assert [error.split()[0] for error in summary["errors"]] == ["XXBTZUSD.d"]
    symbols = await pool.fetch("SELECT symbol FROM data_sync_status WHERE data_type = 'trades' ORDER BY symbol")
    assert [symbol for (symbol,) in symbols] == ["BTC/USDT", "DOGE/USD", "ETH/BTC"]


async def test_a_name_that_means_no_pair_is_not_filled_and_said(pool: asyncpg.Pool) -> None:
    async with scripted_kraken(page(*QUIET)) as kraken, KrakenRest(kraken.url, NoLimit()) as rest:
        filler = GapFiller(pool, Store(pool), rest, find_pair, symbols=["BTC/"], history_days=2, now=lambda: NOW)
        summary = await filler.fill_all_gaps()

    assert (summary["gaps_filled"], kraken.requests) == (0, [])
    assert summary["errors"][0].endswith("expected BASE/QUOTE, such as BTC/USDT, got 'BTC/'")


@pytest.mark.parametrize("minutes", [-1.0, float("inf"), float("nan"), 1e300, LONGEST_MIN_GAP_MINUTES + 1])
async def test_a_shortest_gap_that_cannot_be_is_refused(pool: asyncpg.Pool, minutes: float) -> None:
    async with KrakenRest("http://127.0.0.1:9", NoLimit()) as rest:
        with pytest.raises(InvalidNumber, match="min_gap_minutes: expected a number from 0 to"):
            await filler_on(pool, rest).detect_gaps(minutes)


async def test_healing_does_not_cover_the_time_after_its_last_trade(pool: asyncpg.Pool) -> None:
    """One short answer, which fills the hole, made the hours since the newest trade count as quiet."""
    await Store(pool).write(trades(row(1, 0), row(3, 2)))
    answer = page(row(1, 0), row(2, 1), row(3, 2))
    async with scripted_kraken(answer) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=1) as rest:
        healed = await heal(pool, Store(pool), rest, await find_pair(SYMBOL), (2, 3), now=lambda: NOW)

    newest = BEGIN + timedelta(seconds=2)
    (found,) = await find_uncovered(pool, [SYMBOL], BEGIN, NOW)
    assert (healed.stored, list(found.stretches)) == (1, [TimeRange(newest, NOW)])
