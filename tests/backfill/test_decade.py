"""A pair that is hardly traded: a page spans years, and each trade lies in a partition or chunk of its own."""

import asyncio
import json
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from prometheus_client import REGISTRY

from kraken_history.completeness.absence import find_waiting
from kraken_history.completeness.holes import find_holes
from kraken_history.fetching.backfill import BackfillRunner
from kraken_history.fetching.backfill_targets import list_backfills, request_backfill
from kraken_history.fetching.tape import TapeReader, Work
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import decode_result, decode_trades_page
from kraken_history.ledger import IdRanges
from kraken_history.storing.pages import StoredPage, parts_of
from kraken_history.storing.store import Store
from tests.support.contents import ledger
from tests.support.examples import NOON, make_trade
from tests.support.kraken import BTC, NoLimit, scripted_kraken

SYMBOL = "BTC/USDT"
TRADES, DAYS_APART = 110, 33
BEGIN_S = 1_420_113_600  # noon of 2015-01-01
FEW_LOCKS = 64 * 100 // 6
"""Of the 6,400 that a server has room for where nobody has set max_locks_per_transaction and max_connections."""


def answer(*numbers: int) -> str:
    """Trades of these numbers; together they span ten years."""
    rows = [["100.1", "0.5", BEGIN_S + n * DAYS_APART * 86_400, "b", "l", "", n + 1] for n in numbers]
    return json.dumps({"error": [], "result": {"XBTUSDT": rows, "last": str(rows[-1][2]) + "0" * 9}})


class Locks:
    """Counts the locks in the server's table, again and again, while it is entered."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.most = 0

    async def __aenter__(self) -> "Locks":
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self) -> None:
        while True:
            count: int = await self._pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT fastpath")
            self.most = max(self.most, count)
            await asyncio.sleep(0.002)


@pytest.mark.timeout(120)
async def test_a_page_that_spans_ten_years_is_stored_in_seconds_and_with_few_locks(
    pool: asyncpg.Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was one transaction, however many partitions that locked: thousands."""
    await request_backfill(pool, SYMBOL)
    async with scripted_kraken(answer(*range(TRADES))) as kraken, KrakenRest(kraken.url, NoLimit()) as rest:
        begin = time.monotonic()
        async with Locks(pool) as locks:
            await BackfillRunner(pool, Store(pool), rest, second_look_s=0.01).run(BTC)
        took_s = time.monotonic() - begin
    with capsys.disabled():
        sys.stdout.write(f"\n{TRADES} days within ten years: {took_s:.1f} s, at most {locks.most} locks\n")

    (done,) = await list_backfills(pool)
    assert (done.state, done.trades, done.pages) == ("done", TRADES, 1)
    assert done.next_since == (BEGIN_S + (TRADES - 1) * DAYS_APART * 86_400) * 10**9
    assert await ledger(pool) == {SYMBOL: IdRanges([(1, TRADES + 1)])}
    assert await pool.fetchval("SELECT count(*) FROM candles") == TRADES
    assert locks.most < FEW_LOCKS
    assert took_s < 30


async def read_and_store(pool: asyncpg.Pool, rest: KrakenRest, work: Work) -> StoredPage:
    """The first page of the tape."""
    reader = TapeReader(pool, Store(pool), rest, BTC, work=work)
    return await reader.store(await reader.read(0, until=None, begins_with_a_trade=False))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)
async def test_a_hole_of_ten_years_is_healed_with_few_locks(pool: asyncpg.Pool) -> None:
    ends = decode_trades_page(decode_result(200, answer(0, TRADES - 1).encode()), SYMBOL, since=0)
    await Store(pool).write(ends.trades)
    async with (
        scripted_kraken(answer(*range(TRADES))) as kraken,
        KrakenRest(kraken.url, NoLimit()) as rest,
        Locks(pool) as locks,
    ):
        stored = await read_and_store(pool, rest, "heal")

    assert (stored.new_trades, stored.known_trades, stored.new_candles) == (TRADES - 2, 2, TRADES - 2)
    assert await find_holes(pool) == {}
    assert locks.most < FEW_LOCKS


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_part_of_a_page_that_is_stored_is_not_fetched_again(pool: asyncpg.Pool) -> None:
    await request_backfill(pool, SYMBOL)
    await pool.execute("ALTER TABLE candles ADD CONSTRAINT early CHECK (timestamp < '2017-06-01')")
    async with scripted_kraken(answer(*range(TRADES))) as kraken, KrakenRest(kraken.url, NoLimit()) as rest:
        with pytest.raises(asyncpg.CheckViolationError):
            await BackfillRunner(pool, Store(pool), rest, second_look_s=0.01).run(BTC)
        (stumbled,) = await list_backfills(pool)
        await pool.execute("ALTER TABLE candles DROP CONSTRAINT early")
        kraken.answers = [answer(*range(stumbled.trades - 1, TRADES))]
        await BackfillRunner(pool, Store(pool), rest, second_look_s=0.01).run(BTC)
        asked = [int(request["since"]) for request in kraken.requests]

    assert (stumbled.state, stumbled.failures, stumbled.pages, stumbled.trades) == ("running", 1, 0, 20)
    assert set(asked) == {0, stumbled.next_since}
    assert stumbled.next_since == (BEGIN_S + 19 * DAYS_APART * 86_400) * 10**9
    (done,) = await list_backfills(pool)
    assert (done.state, done.trades, done.pages) == ("done", TRADES, 1)
    assert await ledger(pool) == {SYMBOL: IdRanges([(1, TRADES + 1)])}


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_after_a_part_of_the_first_page_an_answer_without_its_last_trade_is_no_end(pool: asyncpg.Pool) -> None:
    """No page was counted yet, so two empty answers were taken for the end of the tape."""
    await request_backfill(pool, SYMBOL)
    await pool.execute("ALTER TABLE candles ADD CONSTRAINT early CHECK (timestamp < '2017-06-01')")
    async with scripted_kraken(answer(*range(TRADES))) as kraken, KrakenRest(kraken.url, NoLimit()) as rest:
        with pytest.raises(asyncpg.CheckViolationError):
            await BackfillRunner(pool, Store(pool), rest, second_look_s=0.01).run(BTC)
        kraken.answers = [json.dumps({"error": [], "result": {"XBTUSDT": []}})]
        await BackfillRunner(pool, Store(pool), rest, second_look_s=0.01).run(BTC)

    (backfill,) = await list_backfills(pool)
    assert (backfill.state, backfill.pages, backfill.failures) == ("running", 0, 2)
    assert "lacks a trade that is known there" in backfill.reason


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_backfill_that_ends_within_a_page_counts_it_and_what_it_passes_over(pool: asyncpg.Pool) -> None:
    """It was done with no page, and the page was in no figure."""
    passed_over = 5
    numbers = [n for n in range(TRADES) if n != passed_over]
    begin = [counted("pages"), counted("trades")]
    end = datetime.fromtimestamp(BEGIN_S + 30 * DAYS_APART * 86_400, UTC)
    await request_backfill(pool, SYMBOL, end=end)
    async with scripted_kraken(answer(*numbers)) as kraken, KrakenRest(kraken.url, NoLimit()) as rest:
        ended = await BackfillRunner(pool, Store(pool), rest, second_look_s=0.01).run(BTC)

    assert ended is not None
    assert (ended.state, ended.pages, ended.trades) == ("done", 1, 40)
    assert [counted("pages") - begin[0], counted("trades") - begin[1]] == [1, 40]
    waiting = await find_waiting(pool, now=datetime.now(UTC))
    assert waiting == {SYMBOL: IdRanges([(passed_over + 1, passed_over + 2)])}


def counted(what: str) -> float:
    """What a scrape would show of backfilling now."""
    labels = {"symbol": SYMBOL, "work": "backfill"}
    return REGISTRY.get_sample_value(f"kraken_fetched_{what}_total", labels) or 0.0


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_holes_are_told_also_where_the_last_part_of_a_page_is_held(pool: asyncpg.Pool) -> None:
    """The holes of the last part were told, and one that brings nothing new tells none."""
    stands = decode_trades_page(decode_result(200, answer(*range(TRADES - 10, TRADES), 150).encode()), SYMBOL, since=0)
    await Store(pool).write(stands.trades)
    async with scripted_kraken(answer(*range(TRADES))) as kraken, KrakenRest(kraken.url, NoLimit()) as rest:
        stored = await read_and_store(pool, rest, "gap")

    assert stored.holes == {SYMBOL: IdRanges([(TRADES + 1, 151)])}


def test_a_page_is_cut_between_days_only_and_nothing_is_lost() -> None:
    moments = [NOON + timedelta(days=n // 3, seconds=n) for n in range(200)]
    trades = [make_trade(n + 1, moment) for n, moment in enumerate(moments)]

    parts = parts_of(trades)
    assert [trade for part in parts for trade in part] == trades
    assert [len({trade.timestamp.date() for trade in part}) for part in parts] == [20, 20, 20, 7]
    assert parts_of(trades[:3]) == [trades[:3]]
    assert parts_of([]) == []
