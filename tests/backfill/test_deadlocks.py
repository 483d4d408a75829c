"""A transaction that the database ends because another was in the way, which is nobody's fault."""

from datetime import timedelta

import asyncpg
import pytest

from kraken_history.clock import utc_now
from kraken_history.fetching.backfill import backfill_symbol
from kraken_history.fetching.gaps import GapFiller
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.pairs import PairMap
from kraken_history.records import DataGap
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair
from tests.support.database import deadlock
from tests.support.kraken import CountedSimulator, NoLimit, assert_equals_truth

SYMBOL = "BTC/USDT"
pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


async def find_pair(symbol: str) -> Pair:
    return PairMap().find(symbol)


async def test_a_backfill_writes_its_page_again_and_does_not_fetch_it_again(pool: asyncpg.Pool) -> None:
    """It stood still until the sweep came by."""
    await deadlock(pool, times=2)
    async with (
        CountedSimulator((SYMBOL,), history=2_500) as kraken,
        KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest,
    ):
        assert await backfill_symbol(pool, SYMBOL, rest=rest) == 2_500
        assert len(kraken.calls) == 3
        await assert_equals_truth(pool, kraken)


async def test_a_gap_is_filled_all_the_same(pool: asyncpg.Pool) -> None:
    """Symbols that are filled side by side get in each other's way: one was left, with an error in the summary."""
    await deadlock(pool, times=2)
    async with (
        CountedSimulator((SYMBOL,), history=2_500) as kraken,
        KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest,
    ):
        filler = GapFiller(pool, Store(pool), rest, find_pair, symbols=[SYMBOL], history_days=1)
        summary = await filler.fill_all_gaps()
        await assert_equals_truth(pool, kraken)

    assert (summary["gaps_filled"], summary["errors"]) == (summary["gaps_detected"], [])


async def test_candles_that_stand_in_are_written_again(pool: asyncpg.Pool) -> None:
    """The worker's job failed, until the next one five minutes later."""
    await deadlock(pool, times=2)
    async with (
        CountedSimulator((SYMBOL,), history=2_500) as kraken,
        KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest,
    ):
        filler = GapFiller(pool, Store(pool), rest, find_pair, symbols=[SYMBOL], history_days=1)
        now = utc_now()
        new = await filler.fill_gap_ohlc(DataGap.between(SYMBOL, "trades", now - timedelta(hours=2), now))

    assert new == await pool.fetchval("SELECT count(*) FROM candles") > 0


async def test_one_that_goes_on_for_ever_is_an_error(pool: asyncpg.Pool) -> None:
    await deadlock(pool, times=1_000)
    async with (
        CountedSimulator((SYMBOL,), history=100) as kraken,
        KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest,
    ):
        with pytest.raises(asyncpg.DeadlockDetectedError):
            await backfill_symbol(pool, SYMBOL, rest=rest)
