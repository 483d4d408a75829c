"""Candles for those who have to know what is not there."""

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal

import asyncpg
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_history.completeness.covered_time import cover
from kraken_history.errors import CoverageError, InvalidChoice, InvalidNumber, UnknownSymbol
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.padding import pad_buckets
from kraken_history.records import MINUTE, HistoricalCandle, MadeUpCandle, TimeRange
from kraken_history.storing.store import Store
from kraken_history.stream import wire
from tests.coverage_reads.meeting import locked, until_blocked
from tests.support.examples import NOON, make_candle, make_trade

HOUR = timedelta(hours=1)


@pytest.fixture
async def stored(store: Store) -> None:
    """Trades 1, 2, 3 and 5 at 12:00, 12:01, 12:03 and 12:20, at a price of their own each; 4 is missing."""
    minutes = {1: 0, 2: 1, 3: 3, 5: 20}
    await store.write([make_trade(id_, NOON + at * MINUTE, f"{id_}.5") for id_, at in minutes.items()])


def shape(candles: list[HistoricalCandle]) -> list[tuple[int, str, bool]]:
    """Minutes since noon, close, and if made up."""
    return [((c.timestamp - NOON) // MINUTE, str(c.close), c.is_made_up) for c in candles]


@pytest.mark.usefixtures("stored")
async def test_raise_returns_what_is_complete(history: HistoricalDataProvider) -> None:
    candles = await history.get_candles("BTC/USDT", 1, NOON, NOON + 3 * MINUTE, gaps="raise")

    assert shape(candles) == [(0, "1.5", False), (1, "2.5", False)]


@pytest.mark.usefixtures("stored")
async def test_raise_names_what_is_missing_of_the_buckets_asked_for(history: HistoricalDataProvider) -> None:
    with pytest.raises(CoverageError, match="7 min of the range is missing") as refusal:
        await history.get_candles("BTC/USDT", 5, NOON - 3 * MINUTE, NOON + 13 * MINUTE, gaps="raise")

    assert refusal.value.gaps == (TimeRange(NOON + 3 * MINUTE, NOON + 10 * MINUTE),)


@pytest.mark.usefixtures("stored")
async def test_raise_looks_no_further_than_a_limit_reaches(history: HistoricalDataProvider) -> None:
    candles = await history.get_candles("BTC/USDT", 1, NOON, NOON + HOUR, 2, gaps="raise")

    assert shape(candles) == [(0, "1.5", False), (1, "2.5", False)]
    with pytest.raises(CoverageError):
        await history.get_candles("BTC/USDT", 1, NOON, NOON + HOUR, 3, gaps="raise")


async def test_raise_looks_past_the_last_candle_that_a_limit_leaves_room_after(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await store.write([make_trade(1), make_trade(2, NOON + MINUTE)])
    await cover(pool, "BTC/USDT", TimeRange(NOON, NOON + 2 * MINUTE))

    with pytest.raises(CoverageError) as refusal:
        await history.get_candles("BTC/USDT", 1, NOON, NOON + 5 * MINUTE, 3, gaps="raise")

    assert refusal.value.gaps == (TimeRange(NOON + 2 * MINUTE, NOON + 5 * MINUTE),)


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
@pytest.mark.parametrize("limit", [None, 2])
async def test_raise_returns_candles_as_they_are_once_nothing_is_missing(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider, limit: int | None
) -> None:
    """Those read before may lack the trades that came before the range was looked at."""
    await store.write([make_trade(id_, NOON + minute * MINUTE, f"{id_}.5") for id_, minute in ((1, 0), (3, 1), (4, 2))])
    async with locked(pool, "data_sync_status") as holder:
        reading = asyncio.create_task(history.get_candles("BTC/USDT", 1, NOON, NOON + 2 * MINUTE, limit, gaps="raise"))
        await until_blocked(holder, reading)
        await holder.execute("UPDATE candles SET close = 2.5, last_trade_id = 2 WHERE timestamp = $1", NOON)
        await holder.execute("DELETE FROM unheld_ids")

    assert shape(await reading) == [(0, "2.5", False), (1, "3.5", False)]


@pytest.mark.usefixtures("stored")
async def test_raise_takes_the_live_tail_for_missing(history: HistoricalDataProvider) -> None:
    newest = NOON + 20 * MINUTE
    with pytest.raises(CoverageError) as refusal:
        await history.get_candles("BTC/USDT", 1, newest + MINUTE, newest + 3 * MINUTE, gaps="raise")

    assert refusal.value.gaps == (TimeRange(newest + MINUTE, newest + 3 * MINUTE),)


@pytest.mark.usefixtures("stored")
async def test_padding_makes_up_a_flat_candle_for_every_bucket_without_one(history: HistoricalDataProvider) -> None:
    candles = await history.get_candles("BTC/USDT", 1, NOON + MINUTE, NOON + 5 * MINUTE, gaps="pad")

    assert shape(candles) == [(1, "2.5", False), (2, "2.5", True), (3, "3.5", False), (4, "3.5", True)]
    close = Decimal("2.5")
    assert candles[1] == MadeUpCandle(
        "BTC/USDT", NOON + 2 * MINUTE, 1, close, close, close, close, Decimal(0), Decimal(0), 0, close
    )


@pytest.mark.usefixtures("stored")
async def test_fill_is_another_name_of_pad(history: HistoricalDataProvider) -> None:
    ask = ("BTC/USDT", 1, NOON + MINUTE, NOON + 5 * MINUTE)
    padded = await history.get_candles(*ask, gaps="pad")

    assert any(candle.is_made_up for candle in padded)
    assert await history.get_candles(*ask, gaps="fill") == padded


@pytest.mark.usefixtures("stored")
async def test_padding_goes_on_from_the_last_candle_before_the_range(history: HistoricalDataProvider) -> None:
    candles = await history.get_candles("BTC/USDT", 5, NOON + 6 * MINUTE, NOON + 19 * MINUTE, gaps="pad")

    assert shape(candles) == [(10, "3.5", True)]
    assert candles[0].interval_minutes == 5


@pytest.mark.usefixtures("stored")
async def test_padding_makes_up_nothing_before_the_first_known_close(history: HistoricalDataProvider) -> None:
    candles = await history.get_candles("BTC/USDT", 1, NOON - HOUR, NOON + 3 * MINUTE, gaps="pad")
    before = await history.get_candles("BTC/USDT", 1, NOON - HOUR, NOON, gaps="pad")

    assert shape(candles) == [(0, "1.5", False), (1, "2.5", False), (2, "2.5", True)]
    assert before == []


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("start", [NOON - HOUR, NOON])
async def test_a_limit_counts_what_is_made_up(start: datetime, history: HistoricalDataProvider) -> None:
    candles = await history.get_candles("BTC/USDT", 1, start, NOON + HOUR, 5, gaps="pad")

    assert [minute for minute, _, _ in shape(candles)] == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("stored")
async def test_what_is_traded_at_the_end_or_later_changes_nothing(
    store: Store, history: HistoricalDataProvider
) -> None:
    end = NOON + 15 * MINUTE
    before = await history.get_candles("BTC/USDT", 5, NOON, end, gaps="pad")
    await store.write([make_trade(6, end, "900"), make_trade(7, end + MINUTE, "1000")])

    assert await history.get_candles("BTC/USDT", 5, NOON, end, gaps="pad") == before
    assert shape(before) == [(0, "3.5", False), (5, "3.5", True), (10, "3.5", True)]


async def test_padding_stops_at_the_present(pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider) -> None:
    now = await pool.fetchval("SELECT now()")
    minute = now.replace(second=0, microsecond=0)
    await store.write([make_trade(1, minute - 3 * MINUTE)])

    candles = await history.get_candles("BTC/USDT", 1, minute - HOUR, minute + 100 * HOUR, gaps="pad")

    known_after = (await pool.fetchval("SELECT now()")).replace(second=0, microsecond=0)
    assert [c.timestamp for c in candles[:3]] == [minute - n * MINUTE for n in (3, 2, 1)]
    assert minute <= candles[-1].timestamp + MINUTE <= known_after
    assert not candles[0].is_made_up
    assert all(c.is_made_up for c in candles[1:])


@pytest.mark.usefixtures("stored")
async def test_a_range_without_a_whole_bucket_is_empty(history: HistoricalDataProvider) -> None:
    start, end = NOON + timedelta(seconds=1), NOON + timedelta(seconds=119)

    assert await history.get_candles("BTC/USDT", 1, start, end, gaps="raise") == []
    assert await history.get_candles("BTC/USDT", 1, start, end, gaps="pad") == []


@pytest.mark.usefixtures("stored")
async def test_what_makes_no_sense_is_refused(history: HistoricalDataProvider) -> None:
    with pytest.raises(InvalidChoice, match=r"^gaps: expected one of ignore, raise, pad, fill, got 'skip'$"):
        await history.get_candles("BTC/USDT", 1, NOON, NOON + HOUR, gaps="skip")  # type: ignore[arg-type]
    for gaps in ("raise", "pad", "fill"):
        with pytest.raises(UnknownSymbol):
            await history.get_candles("DOGE/USDT", 1, NOON, NOON + HOUR, gaps=gaps)
        with pytest.raises(InvalidNumber):
            await history.get_candles("BTC/USDT", 1, NOON, NOON + HOUR, 0, gaps=gaps)


@given(st.sets(st.integers(0, 30)), st.integers(0, 31))
def test_every_bucket_has_one_candle_and_the_close_before_it(minutes: set[int], end: int) -> None:
    known = make_candle(NOON - MINUTE, close="99.5")
    real = {n: make_candle(NOON + n * MINUTE, close=f"10{n % 2}.{n}") for n in sorted(minutes) if n < end}

    padded = pad_buckets(known, list(real.values()), NOON, NOON + end * MINUTE)

    assert [candle.timestamp for candle in padded] == [NOON + n * MINUTE for n in range(end)]
    for n, (before, candle) in enumerate(zip([known, *padded], padded, strict=False)):
        assert candle == real.get(n, candle)
        assert candle.is_made_up == (n not in real)
        assert n in real or (candle.open, candle.close) == (before.close, before.close)


def test_a_made_up_candle_is_no_candle_with_the_same_values() -> None:
    made_up = MadeUpCandle.after(make_candle(), NOON + MINUTE)
    real = HistoricalCandle(*msgspec.structs.astuple(made_up))

    assert made_up.is_made_up
    assert not real.is_made_up
    assert made_up != real
    assert real != made_up
    assert len({real, made_up}) == 2
    assert wire.decode_candles(wire.encode([made_up])) == [real]
