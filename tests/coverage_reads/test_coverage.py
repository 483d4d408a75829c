"""What a reader is told of the history's completeness."""

import asyncio
from datetime import datetime, timedelta

import asyncpg
import pytest

from kraken_history.completeness.covered_time import cover, cover_minutes
from kraken_history.errors import InvalidChoice, InvalidRange, InvalidTime, UnknownSymbol
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.coverage import CoveredSpan
from kraken_history.records import MINUTE, HistoricalTrade, TimeRange
from kraken_history.storing.store import Store
from tests.coverage_reads.meeting import locked, until_blocked
from tests.support.absent import make_absent
from tests.support.examples import NOON, make_candle, make_trade

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


def a_trade_each(step: timedelta, count: int, *, start: datetime = NOON) -> list[HistoricalTrade]:
    return [make_trade(n + 1, start + n * step) for n in range(count)]


async def test_time_between_stored_trades_is_proven_or_quiet(store: Store, history: HistoricalDataProvider) -> None:
    await store.write(a_trade_each(5 * MINUTE, 3))

    coverage = await history.get_coverage("BTC/USDT", NOON, NOON + 10 * MINUTE)

    assert list(coverage.spans) == [
        CoveredSpan(NOON, NOON + MINUTE, "proven"),
        CoveredSpan(NOON + MINUTE, NOON + 5 * MINUTE, "quiet"),
        CoveredSpan(NOON + 5 * MINUTE, NOON + 6 * MINUTE, "proven"),
        CoveredSpan(NOON + 6 * MINUTE, NOON + 10 * MINUTE, "quiet"),
    ]
    assert coverage.is_complete
    assert coverage.missing == []
    assert coverage.duration("quiet") == 8 * MINUTE


async def test_a_missing_id_takes_both_minutes_around_it(store: Store, history: HistoricalDataProvider) -> None:
    trades = a_trade_each(30 * SECOND, 13)
    await store.write([trade for trade in trades if trade.id != 6])

    coverage = await history.get_coverage("BTC/USDT", NOON, NOON + 6 * MINUTE)

    assert coverage.missing == [TimeRange(NOON + 2 * MINUTE, NOON + 4 * MINUTE)]
    assert coverage.duration("proven") == 4 * MINUTE

    await store.write(trades)
    assert (await history.get_coverage("BTC/USDT", NOON, NOON + 6 * MINUTE)).is_complete


async def test_a_hole_takes_its_minutes_from_what_kraken_was_asked_about(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    """A range that ended before the oldest trade, in the same minute, was once judged without the hole."""
    await store.write([make_trade(1, NOON + 10 * SECOND), make_trade(3, NOON + 10 * SECOND)])
    await cover(pool, "BTC/USDT", TimeRange(NOON - MINUTE, NOON + 10 * SECOND))

    coverage = await history.get_coverage("BTC/USDT", NOON - MINUTE, NOON + 10 * SECOND)

    assert coverage.of("quiet") == [TimeRange(NOON - MINUTE, NOON)]
    assert coverage.missing == [TimeRange(NOON, NOON + 10 * SECOND)]


async def test_the_exchanges_candles_stand_in_for_missing_trades(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    minutes = [NOON + n * MINUTE for n in (0, 1, 2, 4)]
    await store.write([make_trade(1), make_trade(9, NOON + 5 * MINUTE)])
    await store.write(candles=[make_candle(minute) for minute in minutes])
    await cover_minutes(pool, "BTC/USDT", minutes)

    coverage = await history.get_coverage("BTC/USDT", NOON, NOON + 5 * MINUTE)

    assert coverage.of("exchange") == [
        TimeRange(NOON, NOON + 3 * MINUTE),
        TimeRange(NOON + 4 * MINUTE, NOON + 5 * MINUTE),
    ]
    assert coverage.missing == [TimeRange(NOON + 3 * MINUTE, NOON + 4 * MINUTE)]


async def test_a_candle_that_kraken_was_not_asked_for_again_may_have_been_cut_off(
    store: Store, history: HistoricalDataProvider
) -> None:
    """The connection broke in the minute's fifth second; its candle, sent before, once passed for whole."""
    await store.write([make_trade(1)])
    await store.write(candles=[make_candle(NOON + MINUTE, trade_count=1)])
    await store.write([make_trade(50, NOON + 10 * MINUTE)])

    coverage = await history.get_coverage("BTC/USDT", NOON, NOON + 10 * MINUTE)

    assert coverage.missing == [TimeRange(NOON, NOON + 10 * MINUTE)]


async def test_a_candle_of_the_exchange_counts_where_no_trade_is_missing(
    store: Store, history: HistoricalDataProvider
) -> None:
    await store.write([make_trade(1), make_trade(2, NOON + 2 * MINUTE)])
    await store.write(candles=[make_candle(NOON)])

    coverage = await history.get_coverage("BTC/USDT", NOON, NOON + 2 * MINUTE)

    assert coverage.of("exchange") == [TimeRange(NOON, NOON + MINUTE)]
    assert coverage.of("quiet") == [TimeRange(NOON + MINUTE, NOON + 2 * MINUTE)]


async def test_an_imported_candle_counts_by_itself(store: Store, history: HistoricalDataProvider) -> None:
    await store.write(candles=[make_candle()], candle_source="csv")

    assert (await history.get_coverage("BTC/USDT", NOON, NOON + MINUTE)).of("exchange") == [
        TimeRange(NOON, NOON + MINUTE)
    ]


async def test_an_id_that_is_proven_absent_is_no_hole(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await store.write([make_trade(id_, NOON + id_ * MINUTE) for id_ in (1, 3, 5)])
    await make_absent(pool, (2, 3))

    coverage = await history.get_coverage("BTC/USDT", NOON + MINUTE, NOON + 5 * MINUTE)

    assert coverage.missing == [TimeRange(NOON + 3 * MINUTE, NOON + 5 * MINUTE)]


async def test_a_hole_between_the_exchanges_candles_reaches_from_trade_to_trade(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await store_hole_between_exchange_candles(pool, store)

    coverage = await history.get_coverage("BTC/USDT", NOON, NOON + 20 * MINUTE)

    assert coverage.missing == [TimeRange(NOON + 6 * MINUTE, NOON + 15 * MINUTE)]
    assert coverage.duration("exchange") == 2 * MINUTE


async def test_a_hole_reaches_from_trade_to_trade_when_they_were_dropped(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    """Once it reached from built candle to built candle then, because only these knew their ids."""
    await store_hole_between_exchange_candles(pool, store)
    await pool.execute("DELETE FROM trades")

    coverage = await history.get_coverage("BTC/USDT", NOON, NOON + 25 * MINUTE)

    assert coverage.missing == [TimeRange(NOON + 6 * MINUTE, NOON + 15 * MINUTE)]


async def store_hole_between_exchange_candles(pool: asyncpg.Pool, store: Store) -> None:
    """Trades 1, 2, 4, 5 and 6 at 12:00, 12:05, 12:15, 12:20 and 12:25; of 2 and 4 Kraken's candles stand."""
    minutes = {1: 0, 2: 5, 4: 15, 5: 20, 6: 25}
    await store.write([make_trade(id_, NOON + minute * MINUTE) for id_, minute in minutes.items()])
    given = [NOON + minute * MINUTE for minute in (5, 15)]
    await store.write(candles=[make_candle(minute) for minute in given])
    await cover_minutes(pool, "BTC/USDT", given)


async def test_without_any_built_candle_a_hole_reaches_from_the_oldest_trade_to_the_newest(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await store.write([make_trade(1, NOON + SECOND), make_trade(3, NOON + 10 * MINUTE + SECOND)])
    await store.write(candles=[make_candle(NOON), make_candle(NOON + 10 * MINUTE)])
    await cover(pool, "BTC/USDT", TimeRange(NOON - HOUR, NOON + HOUR))
    await pool.execute("DELETE FROM trades")

    coverage = await history.get_coverage("BTC/USDT", NOON - HOUR, NOON + HOUR)

    assert coverage.missing == [TimeRange(NOON, NOON + 11 * MINUTE)]
    assert coverage.duration("quiet") == 109 * MINUTE


async def test_nothing_is_claimed_beyond_the_trades_that_are_stored(
    store: Store, history: HistoricalDataProvider
) -> None:
    await store.write([make_trade(1, NOON + 20 * SECOND), make_trade(2, NOON + 3 * MINUTE + SECOND)])

    coverage = await history.get_coverage("BTC/USDT", NOON, NOON + 4 * MINUTE)

    assert coverage.missing == [
        TimeRange(NOON, NOON + 20 * SECOND),
        TimeRange(NOON + 3 * MINUTE + SECOND, NOON + 4 * MINUTE),
    ]


async def test_the_exchanges_candle_of_the_running_minute_is_not_whole(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    now = await pool.fetchval("SELECT date_trunc('minute', now())")
    minutes = [now - MINUTE, now + MINUTE]
    await store.write(candles=[make_candle(minute) for minute in minutes])
    await cover_minutes(pool, "BTC/USDT", minutes)

    coverage = await history.get_coverage("BTC/USDT", now - MINUTE, now + 2 * MINUTE)

    assert coverage.of("exchange") == [TimeRange(now - MINUTE, now)]
    assert coverage.missing == [TimeRange(now, now + 2 * MINUTE)]


@pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)
async def test_compressed_candles_tell_as_much(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    trades = a_trade_each(30 * SECOND, 400)
    await store.write([trade for trade in trades if trade.id not in (6, 7, 200)])
    before = await history.get_coverage("BTC/USDT", NOON, NOON + HOUR)
    await pool.execute("SELECT compress_chunk(c) FROM show_chunks('candles') c")

    coverage = await history.get_coverage("BTC/USDT", NOON, NOON + HOUR)

    assert coverage == before
    assert coverage.missing == [TimeRange(NOON + 2 * MINUTE, NOON + 4 * MINUTE)]


async def test_what_makes_no_sense_is_refused(store: Store, history: HistoricalDataProvider) -> None:
    await store.write([make_trade(1)])
    coverage = await history.get_coverage("BTC/USDT", NOON, NOON + MINUTE)

    with pytest.raises(UnknownSymbol):
        await history.get_coverage("DOGE/USDT", NOON, NOON + MINUTE)
    with pytest.raises(InvalidRange):
        await history.get_coverage("BTC/USDT", NOON, NOON)
    with pytest.raises(InvalidTime):
        await history.get_coverage("BTC/USDT", NOON.replace(tzinfo=None), NOON)
    with pytest.raises(InvalidChoice, match="proven, exchange, quiet, missing, got 'covered'"):
        coverage.of("covered")  # type: ignore[arg-type] # a word that is none of the kinds


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_what_is_told_is_as_of_one_moment(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    """Of trades that are stored after holes were looked for, the holes would not be known."""
    await store.write([make_trade(1), make_trade(2, NOON + MINUTE)])
    async with locked(pool, "candles") as holder:
        reading = asyncio.create_task(history.get_coverage("BTC/USDT", NOON, NOON + HOUR))
        await until_blocked(holder, reading)
        await holder.execute("UPDATE data_sync_status SET highest_id = 9, newest_timestamp = $1", NOON + HOUR)
        await holder.execute(
            "INSERT INTO unheld_ids (symbol, first_id, stop_id, missing, after_time, before_time)"
            " VALUES ('BTC/USDT', 3, 9, 6, $1, $2)",
            NOON + MINUTE,
            NOON + HOUR,
        )

    assert (await reading).missing == [TimeRange(NOON + MINUTE, NOON + HOUR)]
