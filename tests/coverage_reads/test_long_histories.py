"""Coverage of a history of months: holes are found in narrowed windows, and clear days are only counted."""

import random
from datetime import timedelta

import asyncpg
import pytest

from kraken_history.completeness.covered_time import cover_candles
from kraken_history.completeness.hole_search import DAY, find_holes_of_long
from kraken_history.completeness.hole_times import find_hole_spans
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.kinds import KINDS
from kraken_history.reading.measured_coverage import find_missing, measure_coverage
from kraken_history.records import MINUTE, TimeRange
from kraken_history.storing.store import Store
from tests.support.examples import NOON, make_candle, make_trade

HOUR = timedelta(hours=1)


@pytest.mark.parametrize("seed", range(4))
async def test_holes_are_found_wherever_they_lie_in_months(pool: asyncpg.Pool, store: Store, seed: int) -> None:
    chance = random.Random(seed)
    trades = [make_trade(n + 1, NOON + n * 7 * HOUR) for n in range(300)]  # 87 days
    lost = {n for start in chance.sample(range(2, 299), 6) for n in range(start, start + chance.choice((1, 2, 40)))}
    await store.write([trade for trade in trades if trade.id not in lost])
    await store.write(candles=[make_candle(trade.timestamp, trade_count=9) for trade in chance.sample(trades, 40)])
    span = (NOON + 3 * DAY, NOON + 80 * DAY)

    async with pool.acquire() as connection:
        found = await find_holes_of_long(connection, "BTC/USDT", span)
        known = await find_hole_spans(connection, "BTC/USDT", span)

    assert known
    assert {hole for hole in found if hole[0] < span[1] and hole[1] > span[0]} == {
        hole for hole in known if hole[0] < span[1] and hole[1] > span[0]
    }


async def test_a_history_without_holes_has_none(pool: asyncpg.Pool, store: Store) -> None:
    await store.write([make_trade(n + 1, NOON + n * DAY) for n in range(70)])

    async with pool.acquire() as connection:
        assert await find_holes_of_long(connection, "BTC/USDT", (NOON - DAY, NOON + 80 * DAY)) == []
        assert await find_holes_of_long(connection, "ETH/USDT", (NOON - DAY, NOON + 80 * DAY)) == []


async def test_months_are_counted_as_they_are_read_span_by_span(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    """Exchange-only, missing, proven with a hole and quiet days, a dropped week: both ways say the same."""
    imported = TimeRange(NOON, NOON + 30 * DAY)
    await store.write(candles=[make_candle(NOON + n * HOUR) for n in range(30 * 24)], candle_source="csv")
    trades = [make_trade(n + 1, NOON + 50 * DAY + n * 5 * HOUR + n * timedelta(seconds=7)) for n in range(250)]
    await store.write([trade for trade in trades if trade.id not in (77, 78)])
    async with pool.acquire() as connection:
        await cover_candles(connection, "BTC/USDT", imported)
        await connection.execute(
            "INSERT INTO dropped_ranges VALUES ('candles', tstzmultirange(tstzrange($1, $2)))",
            NOON + 10 * DAY,
            NOON + 17 * DAY,
        )
        start, end = NOON - DAY, NOON + 120 * DAY
        measured = await measure_coverage(connection, "BTC/USDT", start, end)
        missing = await find_missing(connection, "BTC/USDT", start, end)
    coverage = await history.get_coverage("BTC/USDT", start, end)

    assert {kind: timedelta(seconds=measured.totals[kind]) for kind in KINDS} == {
        kind: coverage.duration(kind) for kind in KINDS
    }
    assert list(measured.missing) == missing == coverage.missing
    assert list(measured.dropped) == [TimeRange(NOON + 10 * DAY, NOON + 17 * DAY)]
    assert [sum(day.values()) for day in measured.days.values()] == [43_200, *[86_400] * 120, 43_200]


async def test_a_second_that_is_missing_in_part_is_missing(pool: asyncpg.Pool, store: Store) -> None:
    first, last = NOON + timedelta(milliseconds=300), NOON + 10 * MINUTE + timedelta(milliseconds=700)
    await store.write([make_trade(1, first), make_trade(2, last)])

    async with pool.acquire() as connection:
        measured = await measure_coverage(connection, "BTC/USDT", NOON, NOON + 11 * MINUTE)

    assert measured.totals == {"proven": 59, "exchange": 0, "quiet": 540, "missing": 61}
    assert list(measured.missing) == [
        TimeRange(NOON, NOON + timedelta(seconds=1)),
        TimeRange(NOON + 10 * MINUTE, NOON + 11 * MINUTE),
    ]
