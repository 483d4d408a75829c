"""A gap filler with nothing but a URL: started, asked, filled, verified, stopped."""

import asyncpg
import pytest

from kraken_history.errors import ServiceUnavailable, UsageError
from kraken_history.fetching.gaps import GapFiller
from kraken_history.kraken.client import KrakenRest
from kraken_history.storing.store import Store
from simulator import Simulator
from tests.gaps.conftest import PAIR, SYMBOL, Counting, find_pair
from tests.gaps.test_filling import Now
from tests.gaps.truth import assert_complete, emit_over
from tests.support.database import stored_candles
from tests.support.kraken import all_trades


@pytest.fixture
def alone(migrated_database_url: str, kraken: Simulator, limiter: Counting, now: Now) -> GapFiller:
    return GapFiller(
        migrated_database_url, symbols=["XBTUSDT"], history_days=1, now=now, second_look_s=0.01,
        kraken_rest_url=kraken.rest_url, limiter=limiter,
    )  # fmt: skip


async def test_started_asked_filled_verified_and_stopped(
    alone: GapFiller, pool: asyncpg.Pool, kraken: Simulator, rest: KrakenRest
) -> None:
    await alone.start()
    await alone.start()
    (gap,) = await alone.detect_gaps()
    assert (gap.symbol, gap.is_small, await alone.verify()) == (SYMBOL, False, False)

    summary = await alone.fill_all_gaps()
    assert (summary["gaps_filled"], summary["trades_processed"], summary["errors"]) == (1, 2_600, [])
    assert await alone.verify()
    await alone.stop()
    await alone.stop()

    await assert_complete(pool, kraken, rest, PAIR)
    assert await pool.fetchval("SELECT refreshed_at IS NOT NULL FROM candle_aggregates WHERE name = 'candles_1h'")


async def test_a_short_gap_is_filled_with_candles_and_then_with_trades(
    alone: GapFiller, pool: asyncpg.Pool, kraken: Simulator, rest: KrakenRest
) -> None:
    async with alone as filler:
        await filler.fill_all_gaps()
        before = len(await stored_candles(pool))
        emit_over(kraken, 30, 96)
        (gap,) = await filler.detect_gaps()

        assert await filler.fill_gap_ohlc(gap) == len(await stored_candles(pool)) - before
        assert await filler.fill_gap_trades(gap) == 30 * 96
        await filler.refresh_continuous_aggregates()
        assert await filler.verify()

    assert len(await all_trades(rest, PAIR)) == 2_600 + 30 * 96


async def test_it_may_be_started_again(alone: GapFiller) -> None:
    async with alone:
        first = await alone.detect_gaps()
    async with alone:
        assert [gap.symbol for gap in await alone.detect_gaps()] == [gap.symbol for gap in first]


async def test_before_the_start_and_after_the_stop_it_says_what_to_do(alone: GapFiller) -> None:
    with pytest.raises(UsageError, match="not open: use it inside `async with`, or between start"):
        await alone.detect_gaps()
    async with alone:
        pass
    with pytest.raises(UsageError, match="not open"):
        await alone.fill_all_gaps()


async def test_a_database_that_does_not_answer_is_one_error(alone: GapFiller) -> None:
    filler = GapFiller("postgresql://nobody:secret@127.0.0.1:1/none")

    with pytest.raises(ServiceUnavailable, match="no database answers") as error:
        await filler.start()
    assert "secret" not in str(error.value)
    await filler.stop()


async def test_a_pool_needs_the_other_tools_and_a_url_none(pool: asyncpg.Pool, store: Store) -> None:
    with pytest.raises(TypeError, match="expected store, rest and find_pair beside a pool"):
        GapFiller(pool, store)
    with pytest.raises(TypeError, match="expected a URL alone"):
        GapFiller("postgresql://host/name", find_pair=find_pair)


async def test_with_a_pool_starting_and_stopping_changes_nothing(filler: GapFiller, pool: asyncpg.Pool) -> None:
    async with filler:
        pass

    assert await pool.fetchval("SELECT 1") == 1
    assert len(await filler.detect_gaps()) == 1
