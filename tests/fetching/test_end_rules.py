"""Which answers of Kraken end a fetch, and what an odd answer proves: one rule per answer, for all three fetchers.

A backfill, gap filling and healing each ask the same Kraken, from the same trade on. Trade 1 is stored. For healing,
trade 4,001 is stored too, so that the ids between them are missing.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import asyncpg
import pytest

from kraken_history.errors import HistoryError
from kraken_history.fetching.backfill import BackfillRunner
from kraken_history.fetching.backfill_targets import list_backfills, request_backfill
from kraken_history.fetching.gaps import GapFiller
from kraken_history.fetching.healing import heal
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import TRADES_PAGE, decode_result, decode_trades_page
from kraken_history.records import DataGap
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair
from tests.support.kraken import BEGIN_S, BTC, NoLimit, full_page, page, row, scripted_kraken

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)

BEGIN = datetime.fromtimestamp(BEGIN_S, UTC)
NOW = BEGIN + timedelta(seconds=2_000)
NS = 10**9


class Outcome(NamedTuple):
    """What a fetch came to.

    Attributes:
        asked: Requests that Kraken received.
        stored: Trades that are stored in the end, trade 1 included and trade 4,001 not.
        end: ``done``, or a part of the error's text.
    """

    asked: int
    stored: int
    end: str


Fetch = Callable[[asyncpg.Pool, KrakenRest], Awaitable[str]]


async def find_pair(_: str) -> Pair:
    return BTC


async def by_backfill(pool: asyncpg.Pool, rest: KrakenRest) -> str:
    await request_backfill(pool, BTC.symbol, end=NOW)
    await BackfillRunner(pool, Store(pool), rest, second_look_s=0.01).run(BTC)
    (backfill,) = await list_backfills(pool)
    return backfill.reason or backfill.state


async def by_gap_filling(pool: asyncpg.Pool, rest: KrakenRest) -> str:
    filler = GapFiller(
        pool, Store(pool), rest, find_pair, symbols=[BTC.symbol], history_days=1, now=lambda: NOW, second_look_s=0.01
    )
    fetched = await filler.fetch_forward(DataGap.between(BTC.symbol, "trades", BEGIN, NOW), max_pages=9)
    return "done" if fetched.is_done else "goes on"


async def by_healing(pool: asyncpg.Pool, rest: KrakenRest) -> str:
    await Store(pool).write(decode_trades_page(decode_result(200, page(LAST).encode()), BTC.symbol, since=0).trades)
    healed = await heal(pool, Store(pool), rest, BTC, (2, 4001), now=lambda: NOW, second_look_s=0.01)
    return "done" if healed.next_since is None else "goes on"


FETCHES: dict[str, Fetch] = {"backfill": by_backfill, "gap": by_gap_filling, "heal": by_healing}

FIRST, LAST = row(1, 0), row(4001, 1_990)
SHORT = page(*(row(1000 + n, 999 + n) for n in range(992)), LAST)
"""From the last trade of a full page to the end of the tape."""

ONE_INSTANT = page(*(row(1001 + n, 999) for n in range(TRADES_PAGE)), last=(BEGIN_S + 999) * NS)
PASSING_OVER = page(FIRST, *(row(3 + n, 2 + n) for n in range(900)), LAST)

SHORT_AFTER = page(*(row(3401 + n, 1_000 + n) for n in range(591)), LAST)
"""Behind the instant, of which the ids 2,001 to 3,400 are not shown."""

LACKING = page(*(row(1 + n, 0.7 * n) for n in range(TRADES_PAGE) if n != 500), last=int((BEGIN_S + 699.3) * NS))
LACKING_TOO = page(
    *(row(1000 + n, 699.3 + 0.7 * n) for n in range(TRADES_PAGE) if n != 500), last=int((BEGIN_S + 1_398.6) * NS)
)
SHORT_LATER = page(*(row(1999 + n, 1_398.6 + 0.59 * n) for n in range(992)), LAST)
"""Pages in each of which Kraken left out a trade, and the end of the tape. They end long before the wanted time."""

LACKS, STUCK, BEGINS = "lacks a trade that is known there", "does not advance past", "begins at 2023-11-14 19:43:20"

CASES: dict[str, tuple[tuple[str, ...], Outcome]] = {
    "a full page, then the end": ((full_page(1, 0), SHORT), Outcome(2, 1991, "done")),
    "an answer that ends early, then more": ((page(FIRST), full_page(1, 0), SHORT), Outcome(3, 1991, "done")),
    "an empty answer, and again": ((page(),), Outcome(2, 1, LACKS)),
    "a second answer with less": ((page(*(row(1 + n, n) for n in range(20))), page(FIRST)), Outcome(2, 20, LACKS)),
    "an empty answer after a full page": ((full_page(1, 0), page()), Outcome(3, 1000, LACKS)),
    "a short answer without the last trade of the page before": (
        (full_page(1, 0), page(last=(BEGIN_S + 999) * NS)), Outcome(3, 1000, LACKS),
    ),
    "a page that is repeated for ever": ((full_page(1, 0), ONE_INSTANT), Outcome(2 + 3, 2000, STUCK)),
    "more trades in one instant than a page holds": (
        (full_page(1, 0), ONE_INSTANT, SHORT_AFTER), Outcome(3, 2591, "done"),
    ),
    "a page of another time, and again": ((full_page(1, 0), full_page(1, -9_000)), Outcome(3, 1000, BEGINS)),
    "a page of another time, then the right one": (
        (full_page(1, 0), full_page(1, -9_000), SHORT), Outcome(3, 1991, "done"),
    ),
    "a page that passes over ids": ((PASSING_OVER,), Outcome(1, 901, "done")),
    "full pages that lack rows, twice in a row, then the end": (
        (LACKING, LACKING_TOO, SHORT_LATER, page(LAST)), Outcome(3, 2988, "done"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("who", FETCHES)
async def test_an_answer_ends_a_fetch_by_the_same_rule_for_all(pool: asyncpg.Pool, who: str, case: str) -> None:
    answers, expected = CASES[case]
    await Store(pool).write(decode_trades_page(decode_result(200, page(FIRST).encode()), BTC.symbol, since=0).trades)
    async with scripted_kraken(*answers) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=1) as rest:
        try:
            end = await FETCHES[who](pool, rest)
        except HistoryError as error:
            end = str(error)

    stored = await pool.fetchval("SELECT count(*) FROM trades WHERE id < 4001")
    assert (len(kraken.requests), stored) == (expected.asked, expected.stored)
    assert expected.end in end


@pytest.mark.parametrize("who", FETCHES)
async def test_all_fetchers_record_the_ids_that_a_page_passes_over(pool: asyncpg.Pool, who: str) -> None:
    await Store(pool).write(decode_trades_page(decode_result(200, page(FIRST).encode()), BTC.symbol, since=0).trades)
    async with scripted_kraken(PASSING_OVER) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=1) as rest:
        await FETCHES[who](pool, rest)

    (ids,) = await pool.fetchval("SELECT array_agg(ids) FROM absence_evidence")
    assert [(each.lower, each.upper) for each in ids] == [(2, 3), (903, 4001)]


@pytest.mark.parametrize("answers", [(page(FIRST, row(2, 1)),), (page(FIRST), page(FIRST, row(2, 1)))])
async def test_an_end_that_the_second_look_confirms_is_the_end(pool: asyncpg.Pool, answers: tuple[str, ...]) -> None:
    async with scripted_kraken(*answers) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=1) as rest:
        assert await by_backfill(pool, rest) == "done"

    assert len(kraken.requests) == 2


POISON = row(2**62, 995.5)
FULL_BUT_ONE = page(FIRST, *(row(2 + n, 1 + n) for n in range(998)), POISON, last=(BEGIN_S + 999) * NS)


@pytest.mark.parametrize("who", FETCHES)
async def test_an_id_that_leaps_is_believed_only_if_a_second_answer_shows_it(pool: asyncpg.Pool, who: str) -> None:
    await Store(pool).write(decode_trades_page(decode_result(200, page(FIRST).encode()), BTC.symbol, since=0).trades)
    answers = (FULL_BUT_ONE, full_page(1, 0), SHORT)
    async with scripted_kraken(*answers) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=1) as rest:
        assert await FETCHES[who](pool, rest) == "done"

    assert len(kraken.requests) == 3
    assert await pool.fetchval("SELECT count(*) FROM trades WHERE id < 4001") == 1991
    assert await pool.fetchval("SELECT max(id) FROM trades") == 4001


@pytest.mark.parametrize("who", FETCHES)
async def test_an_id_that_leaps_in_both_answers_is_krakens(pool: asyncpg.Pool, who: str) -> None:
    await Store(pool).write(decode_trades_page(decode_result(200, page(FIRST).encode()), BTC.symbol, since=0).trades)
    answers = (page(FIRST, POISON, LAST), page(FIRST, POISON, LAST))
    async with scripted_kraken(*answers) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=1) as rest:
        await FETCHES[who](pool, rest)

    assert await pool.fetchval("SELECT max(id) FROM trades") == 2**62
