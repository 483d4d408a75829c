"""What a reader is told of the history's completeness."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.aggregates import refresh
from kraken_history.errors import InvalidChoice, InvalidRange, InvalidTime, UnknownSymbol
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.coverage import CoveredSpan
from kraken_history.records import MINUTE, HistoricalTrade, TimeRange
from kraken_history.store import Store
from kraken_history.time_coverage import cover
from tests.core.examples import NOON, make_candle, make_trade

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


async def test_the_exchanges_candles_stand_in_for_missing_trades(store: Store, history: HistoricalDataProvider) -> None:
    await store.write([make_trade(1), make_trade(9, NOON + 5 * MINUTE)])
    await store.write(candles=[make_candle(NOON + n * MINUTE) for n in (0, 1, 2, 4)])

    coverage = await history.get_coverage("BTC/USDT", NOON, NOON + 5 * MINUTE)

    assert coverage.of("exchange") == [
        TimeRange(NOON, NOON + 3 * MINUTE),
        TimeRange(NOON + 4 * MINUTE, NOON + 5 * MINUTE),
    ]
    assert coverage.missing == [TimeRange(NOON + 3 * MINUTE, NOON + 4 * MINUTE)]


async def test_an_id_that_is_proven_absent_is_no_hole(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await store.write([make_trade(id_, NOON + id_ * MINUTE) for id_ in (1, 3, 5)])
    await pool.execute("UPDATE data_sync_status SET absent_id_ranges = '{[2,3)}' WHERE data_type = 'trades'")

    coverage = await history.get_coverage("BTC/USDT", NOON + MINUTE, NOON + 5 * MINUTE)

    assert coverage.missing == [TimeRange(NOON + 3 * MINUTE, NOON + 5 * MINUTE)]


async def test_a_hole_between_the_exchanges_candles_reaches_from_trade_to_trade(
    store: Store, history: HistoricalDataProvider
) -> None:
    minutes = {1: 0, 2: 5, 4: 15, 5: 20}
    await store.write([make_trade(id_, NOON + minute * MINUTE) for id_, minute in minutes.items()])
    await store.write(candles=[make_candle(NOON + minute * MINUTE) for minute in (5, 15)])

    coverage = await history.get_coverage("BTC/USDT", NOON, NOON + 20 * MINUTE)

    assert coverage.missing == [TimeRange(NOON + 6 * MINUTE, NOON + 15 * MINUTE)]
    assert coverage.duration("exchange") == 2 * MINUTE


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
    await store.write(candles=[make_candle(now - MINUTE), make_candle(now + MINUTE)])

    coverage = await history.get_coverage("BTC/USDT", now - MINUTE, now + 2 * MINUTE)

    assert coverage.of("exchange") == [TimeRange(now - MINUTE, now)]
    assert coverage.missing == [TimeRange(now, now + 2 * MINUTE)]


async def test_days_whose_candles_were_dropped_are_missing_not_quiet(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    midnight = NOON.replace(hour=0)
    times = [NOON, midnight + timedelta(days=2, hours=1), midnight + timedelta(days=4, hours=5)]
    await store.write([make_trade(n, moment) for n, moment in enumerate(times)])
    await keep_daily_candles(pool)
    await pool.execute("DELETE FROM candles WHERE timestamp < $1", midnight + timedelta(days=3))

    coverage = await history.get_coverage("BTC/USDT", NOON, times[-1])
    within = await history.get_coverage("BTC/USDT", times[1] + HOUR, times[1] + 2 * HOUR)

    assert coverage.missing == [
        TimeRange(NOON, midnight + timedelta(days=1)),
        TimeRange(midnight + timedelta(days=2), midnight + timedelta(days=3)),
    ]
    assert coverage.of("quiet") == [
        TimeRange(midnight + timedelta(days=1), midnight + timedelta(days=2)),
        TimeRange(midnight + timedelta(days=3), times[-1]),
    ]
    assert not within.is_complete


async def keep_daily_candles(pool: asyncpg.Pool) -> None:
    """As a refresh does, after which retention may drop the minutes."""
    await refresh(pool, now=NOON + timedelta(days=30))


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


async def test_any_zone_of_the_session_gives_the_same_days(
    migrated_database_url: str, pool: asyncpg.Pool, store: Store
) -> None:
    """The day on which Berlin's clocks go forward has 23 hours there."""
    sunday = datetime(2025, 3, 30, tzinfo=UTC)
    await store.write([make_trade(1, sunday), make_trade(2, sunday + timedelta(days=2))])
    await keep_daily_candles(pool)
    await pool.execute("DELETE FROM candles WHERE timestamp < $1", sunday + timedelta(days=1))
    separator = "&" if "?" in migrated_database_url else "?"

    async with HistoricalDataProvider(f"{migrated_database_url}{separator}timezone=Europe/Berlin", 1, 1) as history:
        coverage = await history.get_coverage("BTC/USDT", sunday, sunday + timedelta(days=2))

    assert coverage.missing == [TimeRange(sunday, sunday + timedelta(days=1))]


async def test_what_makes_no_sense_is_refused(store: Store, history: HistoricalDataProvider) -> None:
    await store.write([make_trade(1)])
    coverage = await history.get_coverage("BTC/USDT", NOON, NOON + MINUTE)

    with pytest.raises(UnknownSymbol):
        await history.get_coverage("DOGE/USDT", NOON, NOON + MINUTE)
    with pytest.raises(InvalidRange):
        await history.get_coverage("BTC/USDT", NOON, NOON)
    with pytest.raises(InvalidTime):
        await history.get_coverage("BTC/USDT", NOON.replace(tzinfo=None), NOON)
    with pytest.raises(InvalidChoice, match="proven, exchange, quiet, missing, not 'covered'"):
        coverage.of("covered")  # type: ignore[arg-type] # a word that is none of the kinds
