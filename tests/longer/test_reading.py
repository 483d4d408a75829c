"""Candles of longer intervals without minutes below them: where minutes are missing, they are read."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import msgspec
import pytest

from kraken_history.completeness.covered_time import cover, cover_candles
from kraken_history.errors import CoverageError, UnknownSymbol, UsageError
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.coverage import Coverage
from kraken_history.records import MINUTE, CandleSource, HistoricalCandle, TimeRange
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.longer_candles import StoredLonger, store_longer_candles
from kraken_history.storing.retention import drop_old
from kraken_history.storing.store import Store
from tests.support.examples import make_candle, make_trade

BTC = "BTC/USDT"
MONDAY = datetime(2025, 11, 10, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def longer(at: datetime, interval: int, *, trade_count: int = 100, close: str = "100") -> HistoricalCandle:
    """A candle of the exchange: open 90, high 120, low 80, and 10 of the base asset at a vwap of 100."""
    price = Decimal(close)
    return HistoricalCandle(
        BTC, at, interval, Decimal(90), Decimal(120), Decimal(80), price, Decimal(10), Decimal(1000), trade_count,
        Decimal(100),
    )  # fmt: skip


async def given(
    pool: asyncpg.Pool,
    interval: int,
    start: datetime,
    count: int,
    *,
    trade_count: int = 100,
    source: CandleSource = "ohlc",
) -> StoredLonger:
    width = timedelta(minutes=interval)
    candles = [longer(start + n * width, interval, trade_count=trade_count) for n in range(count)]
    return await store_longer_candles(pool, BTC, interval, candles, source)


def shape(candles: Sequence[HistoricalCandle]) -> list[tuple[datetime, int, str]]:
    return [(candle.timestamp, candle.trade_count, candle.source) for candle in candles]


def kinds(coverage: Coverage) -> list[tuple[str, timedelta]]:
    return [(span.kind, span.duration) for span in coverage.spans]


async def test_a_symbol_with_nothing_else_is_read_in_every_way(
    pool: asyncpg.Pool, history: HistoricalDataProvider
) -> None:
    await given(pool, 1440, MONDAY, 14)

    days = await history.get_candles(BTC, 1440, MONDAY, MONDAY + 14 * DAY)
    assert shape(days) == [(MONDAY + n * DAY, 100, "ohlc") for n in range(14)]
    assert await history.get_latest_candles(BTC, 1440, 3) == days[-3:]
    assert await history.get_warmup_data(BTC, 1440, 4, end=MONDAY + 10 * DAY) == days[6:10]
    assert [c async for c in history.replay_candles(BTC, 1440, MONDAY, MONDAY + 14 * DAY, speed=0)] == days
    table = await history.get_candles_arrow(BTC, 1440, MONDAY, MONDAY + 14 * DAY, gaps="raise")
    assert [HistoricalCandle(**row) for row in table.to_pylist()] == days
    weeks = await history.get_candles(BTC, 10080, MONDAY, MONDAY + 14 * DAY)
    assert shape(weeks) == [(MONDAY, 700, "ohlc"), (MONDAY + 7 * DAY, 700, "ohlc")]
    assert weeks[0].volume == 70
    assert await history.get_candles(BTC, 60, MONDAY, MONDAY + 14 * DAY, gaps="ignore") == []
    assert await history.get_candles(BTC, 1, MONDAY, MONDAY + 14 * DAY, gaps="ignore") == []
    assert await history.get_symbols() == [BTC]


@pytest.mark.parametrize(("stored", "read", "count"), [(60, 120, 12), (240, 720, 2), (5, 60, 24), (30, 90, 16)])
async def test_any_interval_is_made_of_shorter_ones(
    pool: asyncpg.Pool, history: HistoricalDataProvider, stored: int, read: int, count: int
) -> None:
    await given(pool, stored, MONDAY, 1440 // stored)

    candles = await history.get_candles(BTC, read, MONDAY, MONDAY + DAY)

    assert len(candles) == count
    assert {candle.trade_count for candle in candles} == {100 * read // stored}


async def test_the_exchanges_own_candle_is_preferred_to_one_made_of_its_shorter_ones(
    pool: asyncpg.Pool, history: HistoricalDataProvider
) -> None:
    """Its vwap is cut only once."""
    await given(pool, 240, MONDAY, 6)
    await given(pool, 60, MONDAY, 24, trade_count=25)
    day = msgspec.structs.replace(longer(MONDAY, 1440, trade_count=600), vwap=Decimal("99.9"))
    await store_longer_candles(pool, BTC, 1440, [day], "ohlc")

    assert await history.get_candles(BTC, 1440, MONDAY, MONDAY + DAY) == [day]


async def test_a_bucket_that_is_covered_in_part_only_has_no_candle(
    pool: asyncpg.Pool, history: HistoricalDataProvider
) -> None:
    await given(pool, 60, MONDAY + 5 * HOUR, 24)
    await given(pool, 1440, MONDAY, 1, trade_count=50)

    days = await history.get_candles(BTC, 1440, MONDAY, MONDAY + 3 * DAY, gaps="ignore")

    assert shape(days) == [(MONDAY, 50, "ohlc")]


async def test_half_a_bucket_of_minutes_does_not_hide_the_whole_candle(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await given(pool, 1440, MONDAY, 2)
    await store.write([make_trade(n, MONDAY + 12 * HOUR + n * MINUTE) for n in range(1, 61)])
    await refresh(pool, now=MONDAY + 9 * DAY)

    days = await history.get_candles(BTC, 1440, MONDAY, MONDAY + 2 * DAY)
    hours = await history.get_candles(BTC, 60, MONDAY, MONDAY + 2 * DAY, gaps="ignore")

    assert shape(days) == [(MONDAY, 100, "ohlc"), (MONDAY + DAY, 100, "ohlc")]
    assert shape(hours) == [(MONDAY + 12 * HOUR, 59, "trades"), (MONDAY + 13 * HOUR, 1, "trades")]


async def test_a_bucket_that_is_proven_complete_has_its_own_candle_though_the_other_claims_more(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await given(pool, 60, MONDAY, 3)
    await store.write([make_trade(n, MONDAY + n * 5 * MINUTE) for n in range(1, 20)])

    hours = await history.get_candles(BTC, 60, MONDAY, MONDAY + 3 * HOUR)
    await cover(pool, BTC, TimeRange(MONDAY, MONDAY + 2 * HOUR))
    proven = await history.get_candles(BTC, 60, MONDAY, MONDAY + 3 * HOUR)

    assert shape(hours) == [(MONDAY + n * HOUR, 100, "ohlc") for n in range(3)]
    assert shape(proven) == [
        (MONDAY, 11, "trades"), (MONDAY + HOUR, 8, "trades"), (MONDAY + 2 * HOUR, 100, "ohlc"),
    ]  # fmt: skip


async def test_a_bucket_that_is_proven_quiet_has_no_candle(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await given(pool, 60, MONDAY, 5)
    await store.write([make_trade(1, MONDAY), make_trade(2, MONDAY + 4 * HOUR)])

    hours = await history.get_candles(BTC, 60, MONDAY, MONDAY + 5 * HOUR)

    assert [hour.trade_count for hour in hours] == [100, 100]


async def test_where_minutes_were_dropped_proof_hides_nothing(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await store.write([make_trade(n, MONDAY + n * HOUR) for n in range(1, 500)])
    await drop_old(pool, {"candles": MONDAY + 15 * DAY}, now=MONDAY + 30 * DAY)
    await given(pool, 1440, MONDAY, 7)

    days = await history.get_candles(BTC, 1440, MONDAY, MONDAY + 7 * DAY)

    assert [day.trade_count for day in days] == [100] * 7


async def test_equally_full_candles_are_those_of_the_minutes(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await given(pool, 60, MONDAY, 1, trade_count=3)
    await store.write(candles=[make_candle(MONDAY, trade_count=3, close="101.25")])

    [hour] = await history.get_candles(BTC, 60, MONDAY, MONDAY + HOUR)

    assert hour.close == Decimal("101.25")


async def test_a_stronger_source_wins_between_equally_full_candles(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await given(pool, 60, MONDAY, 1, trade_count=3, source="csv")
    await store.write(candles=[make_candle(MONDAY, trade_count=3)])

    [hour] = await history.get_candles(BTC, 60, MONDAY, MONDAY + HOUR)

    assert (hour.close, hour.source) == (Decimal(100), "csv")


async def test_a_refresh_and_retention_leave_them_alone(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await given(pool, 1440, MONDAY, 14)
    await store.write([make_trade(1, MONDAY + HOUR)])

    await refresh(pool, within=TimeRange(MONDAY, MONDAY + 14 * DAY), now=MONDAY + 30 * DAY)
    await drop_old(pool, {"candles": MONDAY + 20 * DAY}, now=MONDAY + 30 * DAY)

    assert len(await history.get_candles(BTC, 1440, MONDAY, MONDAY + 14 * DAY)) == 14
    assert await pool.fetchval("SELECT count(*) FROM longer_candles") == 14


async def test_coverage_depends_on_the_interval(pool: asyncpg.Pool, history: HistoricalDataProvider) -> None:
    await given(pool, 60, MONDAY + 6 * HOUR, 30)

    for interval, expected in {
        1: [("missing", 2 * DAY)],
        30: [("missing", 2 * DAY)],
        60: [("missing", 6 * HOUR), ("exchange", 30 * HOUR), ("missing", 12 * HOUR)],
        240: [("missing", 8 * HOUR), ("exchange", 28 * HOUR), ("missing", 12 * HOUR)],
        1440: [("missing", 2 * DAY)],
    }.items():
        coverage = await history.get_coverage(BTC, MONDAY, MONDAY + 2 * DAY, interval)
        assert kinds(coverage) == expected, interval


async def test_coverage_keeps_what_the_minutes_say(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await given(pool, 60, MONDAY, 4)
    await store.write([make_trade(1, MONDAY + HOUR), make_trade(2, MONDAY + 3 * HOUR)])
    async with pool.acquire() as connection:
        await cover_candles(connection, BTC, TimeRange(MONDAY, MONDAY + HOUR / 2))

    coverage = await history.get_coverage(BTC, MONDAY, MONDAY + 5 * HOUR, 60)

    assert kinds(coverage) == [
        ("quiet", HOUR / 2), ("exchange", HOUR / 2), ("proven", MINUTE), ("quiet", 2 * HOUR - MINUTE),
        ("exchange", HOUR), ("missing", HOUR),
    ]  # fmt: skip


async def test_a_strict_read_depends_on_the_interval(pool: asyncpg.Pool, history: HistoricalDataProvider) -> None:
    await given(pool, 60, MONDAY, 24)

    assert len(await history.get_candles(BTC, 60, MONDAY, MONDAY + DAY, gaps="raise")) == 24
    assert len(await history.get_candles(BTC, 720, MONDAY, MONDAY + DAY, gaps="raise")) == 2
    with pytest.raises(CoverageError):
        await history.get_candles(BTC, 30, MONDAY, MONDAY + DAY, gaps="raise")
    with pytest.raises(CoverageError):
        await history.get_candles_arrow(BTC, 5, MONDAY, MONDAY + DAY, gaps="raise")


async def test_a_quiet_bucket_is_covered_without_a_candle(pool: asyncpg.Pool, history: HistoricalDataProvider) -> None:
    candles = [longer(MONDAY, 60), longer(MONDAY + HOUR, 60, trade_count=0), longer(MONDAY + 2 * HOUR, 60)]
    assert await store_longer_candles(pool, BTC, 60, candles, "ohlc") == StoredLonger(2, 0)

    hours = await history.get_candles(BTC, 60, MONDAY, MONDAY + 3 * HOUR, gaps="raise")

    assert [hour.timestamp for hour in hours] == [MONDAY, MONDAY + 2 * HOUR]


async def test_the_same_source_corrects_and_another_must_be_fuller(
    pool: asyncpg.Pool, history: HistoricalDataProvider
) -> None:
    async def write(count: int, source: CandleSource) -> tuple[StoredLonger, int, str]:
        stored = await given(pool, 60, MONDAY, 1, trade_count=count, source=source)
        [hour] = await history.get_candles(BTC, 60, MONDAY, MONDAY + HOUR)
        return stored, hour.trade_count, hour.source

    assert await write(5, "ohlc") == (StoredLonger(1, 0), 5, "ohlc")
    assert await write(4, "ohlc") == (StoredLonger(0, 1), 4, "ohlc")
    assert await write(4, "ohlc") == (StoredLonger(0, 0), 4, "ohlc")
    assert await write(4, "csv") == (StoredLonger(0, 1), 4, "csv")
    assert await write(4, "ohlc") == (StoredLonger(0, 0), 4, "csv")
    assert await write(6, "ohlc") == (StoredLonger(0, 1), 6, "ohlc")


@pytest.mark.parametrize(
    ("interval", "candle", "reason"),
    [
        (10080, longer(MONDAY, 10080), "expected an interval of"),
        (1, longer(MONDAY, 1), "expected an interval of"),
        (60, longer(MONDAY, 240), "240 min"),
        (60, longer(MONDAY + MINUTE, 60), "at the start of its 60 minutes"),
    ],
)
async def test_a_candle_that_does_not_belong_is_refused(
    pool: asyncpg.Pool, history: HistoricalDataProvider, interval: int, candle: HistoricalCandle, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        await store_longer_candles(pool, BTC, interval, [candle], "ohlc")

    with pytest.raises(UnknownSymbol):
        await history.get_candles(BTC, 60, MONDAY, MONDAY + HOUR)
