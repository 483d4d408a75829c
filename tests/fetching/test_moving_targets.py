"""Backfills whose target or state changes while a page is fetched, and pages that are stored in part."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.completeness.covered_time import find_uncovered
from kraken_history.fetching.backfill import BackfillRunner
from kraken_history.fetching.backfill_targets import Backfill, list_backfills, pause_backfills, request_backfill
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import TRADES_PAGE, TradesPage, decode_result, decode_trades_page
from kraken_history.records import HistoricalTrade, TimeRange
from kraken_history.runtime import telemetry
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair
from tests.support.kraken import BEGIN_S, BTC, NoLimit, full_page, page, row, scripted_kraken

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)

BEGIN = datetime.fromtimestamp(BEGIN_S, UTC)
DAY = timedelta(days=1)


def trades(*rows: list[object]) -> list[HistoricalTrade]:
    return list(decode_trades_page(decode_result(200, page(*rows).encode()), BTC.symbol, since=0).trades)


class Interrupted(KrakenRest):
    """Does something after Kraken's first answer, before the caller sees it."""

    def __init__(self, url: str, meanwhile: Callable[[], Awaitable[object]]) -> None:
        super().__init__(url, NoLimit(), attempts=1)
        self._meanwhile: Callable[[], Awaitable[object]] | None = meanwhile

    async def fetch_trades_page(self, pair: Pair, since: int = 0) -> TradesPage:
        answer = await super().fetch_trades_page(pair, since)
        if self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            await meanwhile()
        return answer


async def nothing() -> None:
    """Nothing happens meanwhile."""


async def run(
    pool: asyncpg.Pool, *answers: str, times: int = 1, meanwhile: Callable[[], Awaitable[object]] = nothing
) -> Backfill:
    async with scripted_kraken(*answers) as kraken, Interrupted(kraken.url, meanwhile) as rest:
        for _ in range(times):
            await BackfillRunner(pool, Store(pool), rest, second_look_s=0.01).run(BTC)
    (backfill,) = await list_backfills(pool)
    return backfill


async def test_a_page_behind_an_end_that_is_moved_meanwhile_is_stored(pool: asyncpg.Pool) -> None:
    """Its trades were dropped, and the cursor leapt over them because later ones were stored: done, without them."""
    await Store(pool).write(trades(*(row(n, n - 1) for n in range(1000, 3001))))
    await request_backfill(pool, BTC.symbol, start=BEGIN - 2 * DAY, end=BEGIN - DAY)

    backfill = await run(
        pool, full_page(1, 0), full_page(1, 0), page(row(3000, 2999), row(3001, 3000)),
        meanwhile=lambda: request_backfill(pool, BTC.symbol, start=BEGIN - 2 * DAY, end=BEGIN + DAY),
    )  # fmt: skip

    assert backfill.state == "done"
    assert await pool.fetchval("SELECT count(*) FROM trades WHERE id < 1000") == 999


async def test_a_last_page_behind_an_end_that_is_moved_meanwhile_is_stored(pool: asyncpg.Pool) -> None:
    await request_backfill(pool, BTC.symbol, start=BEGIN - 2 * DAY, end=BEGIN - DAY)

    backfill = await run(
        pool, page(*(row(n, n - 1) for n in range(1, 50))),
        meanwhile=lambda: request_backfill(pool, BTC.symbol, start=BEGIN - 2 * DAY, end=BEGIN + DAY),
    )  # fmt: skip

    assert (backfill.state, backfill.trades, backfill.reason) == ("done", 49, "")


async def test_an_end_of_the_tape_is_checked_for_the_end_that_is_wanted_now(pool: asyncpg.Pool) -> None:
    """The first answer was cut short, behind the end that was wanted when it was requested."""
    await request_backfill(pool, BTC.symbol, start=BEGIN, end=BEGIN + timedelta(minutes=1))

    backfill = await run(
        pool, page(row(1, 0), row(2, 90)), full_page(2, 90), page(row(1001, 1089), row(1002, 1090)),
        meanwhile=lambda: request_backfill(pool, BTC.symbol, start=BEGIN, end=BEGIN + DAY),
    )  # fmt: skip

    assert (backfill.state, await pool.fetchval("SELECT max(id) FROM trades")) == ("done", 1002)


async def test_a_trade_after_the_target_need_not_be_shown(pool: asyncpg.Pool) -> None:
    """REST lags behind the live feed; the target ended long ago, and the page shows all of it."""
    await Store(pool).write(trades(row(100, 3 * 86_400)))
    await request_backfill(pool, BTC.symbol, start=BEGIN, end=BEGIN + DAY)

    backfill = await run(pool, page(*(row(n, n * 2_000) for n in range(1, 99))))

    assert (backfill.state, backfill.failures) == ("done", 0)


async def test_the_trades_of_a_page_in_doubt_are_counted(pool: asyncpg.Pool) -> None:
    await request_backfill(pool, BTC.symbol, start=BEGIN - DAY, end=BEGIN + DAY)

    backfill = await run(pool, page(row(1, 0), row(2, 1)), page(row(1, 0)), page(row(1, 0), row(2, 1)), times=2)

    assert (backfill.state, backfill.trades) == ("done", 2)


@pytest.mark.parametrize("doubtful", [False, True])
async def test_of_a_backfill_that_is_paused_meanwhile_nothing_is_stored_or_recorded(
    pool: asyncpg.Pool, doubtful: bool
) -> None:
    await Store(pool).write(trades(row(1, 0)))
    await request_backfill(pool, BTC.symbol, start=BEGIN, end=BEGIN + DAY)
    pages = telemetry.FETCHED_PAGES.labels(symbol=BTC.symbol, work="backfill")
    before = pages._value.get()

    answer = page(row(1, 0), *(row(n, n) for n in range(5, 900)))
    backfill = await run(
        pool, *([answer, page(row(1, 0))] if doubtful else [answer]), meanwhile=lambda: pause_backfills(pool)
    )

    assert (backfill.state, backfill.trades, pages._value.get() - before) == ("paused", 0, 0)
    assert await pool.fetchval("SELECT count(*) FROM trades") == 1
    assert await pool.fetchval("SELECT count(*) FROM absence_evidence") == 0


async def test_a_start_before_1970_does_not_mean_that_a_trade_is_known(pool: asyncpg.Pool) -> None:
    await request_backfill(pool, BTC.symbol, start=datetime(1960, 1, 1, tzinfo=UTC), end=BEGIN + DAY)

    assert (await run(pool, page())).state == "done"


async def test_a_part_of_a_page_covers_its_own_time_only(pool: asyncpg.Pool) -> None:
    """The page spans months, and the target ends within its first part: the rest is neither stored nor covered."""
    await request_backfill(pool, BTC.symbol, start=BEGIN, end=BEGIN + 10 * DAY)

    await run(pool, page(*(row(n, n * 3 * 3_600) for n in range(1, TRADES_PAGE + 1))))

    newest = await pool.fetchval("SELECT max(timestamp) FROM trades")
    assert BEGIN + 10 * DAY < newest < BEGIN + 21 * DAY
    (found,) = await find_uncovered(pool, [BTC.symbol], BEGIN, BEGIN + 300 * DAY)
    assert list(found.stretches) == [TimeRange(newest, BEGIN + 300 * DAY)]
