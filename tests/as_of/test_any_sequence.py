"""Whatever is written in whatever order: as of each instant, the candles that could be read then."""

from datetime import datetime, timedelta
from itertools import count

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import MINUTE, CandleSource, HistoricalCandle, HistoricalTrade, floor_minute
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.candle_deltas import build_candles
from kraken_history.storing.store import Store
from tests.as_of.test_known_earlier import instant
from tests.support.examples import NOON, make_candle, moments, trades

SPAN = timedelta(minutes=100)
END = NOON + timedelta(hours=4)
INTERVALS = (1, 2, 5, 15, 45, 60, 240)

# Instead of emptying tables that are materialised as well, each example has a symbol of its own.
_symbols = (f"X{number}/USDT" for number in count())

batches_of_trades = st.lists(
    st.lists(trades(at=moments(NOON, SPAN), ids=st.integers(1, 30), symbols=("BTC/USDT",)), min_size=1, max_size=6),
    min_size=2,
    max_size=5,
)
few_examples = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few_examples
@given(batches=batches_of_trades, refreshed=st.integers(0, 5))
async def test_candles_made_of_trades_come_back_exactly(
    pool: asyncpg.Pool,
    store: Store,
    provider: HistoricalDataProvider,
    batches: list[list[HistoricalTrade]],
    refreshed: int,
) -> None:
    symbol = next(_symbols)
    seen: list[tuple[datetime, dict[int, list[HistoricalCandle]]]] = []
    for number, batch in enumerate(batches):
        await store.write([replace(trade, symbol=symbol) for trade in batch])
        if number == refreshed:
            await refresh(pool, now=END + timedelta(hours=1))
        read = {m: await provider.get_candles(symbol, m, NOON, END, gaps="ignore") for m in INTERVALS}
        seen.append((await instant(pool), read))

    for then, read in seen:
        for interval, candles in read.items():
            assert await provider.get_candles(symbol, interval, NOON, END, as_of=then) == candles
            assert await provider.get_candles(symbol, interval, NOON, END, 2, as_of=then) == candles[:2]


Row = tuple[HistoricalCandle, str]
Offers = list[tuple[int, int, CandleSource]]
sources: st.SearchStrategy[CandleSource] = st.sampled_from(("ohlc", "csv"))
offers = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5), sources), max_size=3)
few_minutes = trades(at=moments(NOON, 5 * MINUTE), ids=st.integers(1, 20), symbols=("BTC/USDT",))


@few_examples
@given(writes=st.lists(st.tuples(st.lists(few_minutes, max_size=4), offers), min_size=2, max_size=6))
async def test_candles_of_other_sources_count_until_they_change_and_then_their_trades(
    pool: asyncpg.Pool,
    store: Store,
    provider: HistoricalDataProvider,
    writes: list[tuple[list[HistoricalTrade], Offers]],
) -> None:
    symbol = next(_symbols)
    await store.write([], [make_candle(END, symbol=symbol)])
    seen: list[tuple[datetime, dict[datetime, Row], list[HistoricalTrade]]] = []
    for batch, offered in writes:
        await store.write([replace(trade, symbol=symbol) for trade in batch])
        for minute, fullness, source in offered:
            candle = make_candle(NOON + minute * MINUTE, trade_count=fullness, symbol=symbol)
            await store.write([], [candle], candle_source=source)
        held = await provider.get_trades(symbol, NOON, END, gaps="ignore")
        seen.append((await instant(pool), await rows_of(pool, symbol), held))

    present = await rows_of(pool, symbol)
    for then, rows, held in seen:
        unchanged = {minute: candle for minute, (candle, source) in rows.items() if present[minute] == (candle, source)}
        changed = [trade for trade in held if floor_minute(trade.timestamp) not in unchanged]
        expected = [*unchanged.values(), *build_candles(changed)]
        known = await provider.get_candles(symbol, 1, NOON, END, as_of=then)
        assert known == sorted(expected, key=lambda candle: candle.timestamp)


async def rows_of(pool: asyncpg.Pool, symbol: str) -> dict[datetime, Row]:
    """By minute, the candle and its source."""
    columns = ", ".join(HistoricalCandle.__struct_fields__)
    rows = await pool.fetch(
        f"SELECT {columns}, source FROM candles WHERE symbol = $1 AND timestamp < $2 ORDER BY timestamp",  # noqa: S608 — our own names
        symbol,
        END,
    )
    return {row["timestamp"]: (HistoricalCandle(*tuple(row)[:-1]), row["source"]) for row in rows}
