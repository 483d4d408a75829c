"""Whatever is written, corrected and refreshed in whatever order: the eight intervals are what the minutes say."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from kraken_history.database.connections import create_pool
from kraken_history.records import HistoricalCandle, HistoricalTrade, TimeRange
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.longer_intervals import AGGREGATES
from kraken_history.storing.store import Store
from tests.aggregates.truth import assert_right, assert_wrong_only_where_marked, marked_ranges
from tests.support.servers import DatabaseServer

SUNDAY = datetime(2025, 11, 9, 12, tzinfo=UTC)
PERIOD = timedelta(days=16)
SYMBOLS = ("BTC/USDT", "XRP/BTC")


class Write(Struct, frozen=True):
    """Trades and candles of another source, in one transaction."""

    trades: Sequence[HistoricalTrade]
    candles: Sequence[HistoricalCandle]


class Refresh(Struct, frozen=True):
    """A refresh at some time, marked or by hand."""

    now: datetime
    within: TimeRange | None


# Few distinct times, so that buckets meet; near the borders of hours, days and weeks.
_minutes = st.builds(
    lambda day, minute: SUNDAY + timedelta(days=day, minutes=minute),
    st.sampled_from((0, 1, 2, 7, 8, 15)),
    st.sampled_from((0, 1, 4, 5, 59, 60, 239, 719, 720, 721)),
)
_figures = st.integers(1, 10**7).map(lambda n: Decimal(n).scaleb(-3))


@st.composite
def _trades(draw: st.DrawFn) -> HistoricalTrade:
    moment = draw(_minutes) + timedelta(seconds=draw(st.integers(0, 59)))
    id_, symbol = draw(st.integers(1, 500)), draw(st.sampled_from(SYMBOLS))
    return HistoricalTrade(id_, symbol, moment, draw(_figures), draw(_figures), "buy", "limit")


@st.composite
def _candles(draw: st.DrawFn) -> HistoricalCandle:
    low, middle, high = sorted(draw(st.lists(_figures, min_size=3, max_size=3)))
    volume, count = draw(_figures), draw(st.integers(1, 9))
    symbol, minute = draw(st.sampled_from(SYMBOLS)), draw(_minutes)
    return HistoricalCandle(symbol, minute, 1, middle, high, low, middle, volume, volume * middle, count, middle)


_writes = st.builds(Write, st.lists(_trades(), max_size=6), st.lists(_candles(), max_size=6))
_instants = st.integers(0, PERIOD // timedelta(minutes=1)).map(lambda n: SUNDAY + timedelta(minutes=n))
_ranges = st.tuples(_instants, _instants).filter(lambda pair: pair[0] < pair[1]).map(lambda pair: TimeRange(*pair))
_refreshes = st.builds(Refresh, _instants, st.none() | _ranges)


@asynccontextmanager
async def fresh_pool(server: DatabaseServer) -> AsyncIterator[asyncpg.Pool]:
    """A database of its own for each sequence: a watermark cannot be moved back."""
    url = server.create_migrated_database()
    pool = await create_pool(url, min_size=1, max_size=2)
    try:
        yield pool
    finally:
        pool.terminate()
        server.drop_database(url)


@settings(max_examples=20)
@given(steps=st.lists(_writes | _refreshes, min_size=2, max_size=9))
async def test_any_sequence_ends_right_and_is_never_wrong_unmarked(
    database_server: DatabaseServer, steps: list[Write | Refresh]
) -> None:
    async with fresh_pool(database_server) as pool:
        store = Store(pool)
        for step in steps:
            match step:
                case Write(trades, candles):
                    await store.write(trades, candles)
                case Refresh(now, within):
                    await refresh(pool, within=within, now=now)
            await assert_wrong_only_where_marked(pool)

        await refresh(pool, now=SUNDAY + PERIOD)
        await assert_right(pool)

        await refresh(pool, now=SUNDAY + PERIOD + timedelta(days=8))
        await assert_right(pool)
        assert [await marked_ranges(pool, aggregate) for aggregate in AGGREGATES] == [[]] * 8
