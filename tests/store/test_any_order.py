"""Any order, repetition and splitting of the same records over any number of writers ends in the same rows."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import accumulate, pairwise

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from kraken_history.ledger import IdRanges
from kraken_history.records import MINUTE, CandleSource, HistoricalCandle, HistoricalTrade, floor_minute
from kraken_history.storing.candle_deltas import build_candles
from kraken_history.storing.store import Store
from tests.support.contents import everything, ledger, stored_candles, stored_trades
from tests.support.examples import NOON, SYMBOLS, distinct_trades

SPAN = timedelta(minutes=3)
RANKS: dict[str, int] = {"ohlc": 0, "csv": 1, "trades": 2}


class Offered(Struct, frozen=True):
    """A candle that somebody offers to the store."""

    candle: HistoricalCandle
    source: CandleSource


@st.composite
def offered_candles(draw: st.DrawFn) -> Offered:
    """Of few distinct values, so that minutes, counts and volumes meet."""
    low, middle, other, high = map(Decimal, sorted(draw(st.lists(st.integers(99, 101), min_size=4, max_size=4))))
    volume, quote_volume = Decimal(draw(st.integers(1, 2))), Decimal(draw(st.sampled_from((100, 200))))
    minute = NOON + timedelta(minutes=draw(st.integers(0, 3)))
    symbol, vwap = draw(st.sampled_from(SYMBOLS[:2])), draw(st.sampled_from((low, high)))
    trade_count = draw(st.integers(0, 5))
    source: CandleSource = draw(st.sampled_from(("ohlc", "csv")))
    candle = HistoricalCandle(symbol, minute, 1, middle, high, low, other, volume, quote_volume, trade_count, vwap)
    return Offered(candle, source)


Record = HistoricalTrade | Offered
Batches = list[list[Record]]


@st.composite
def ways_to_write(draw: st.DrawFn) -> tuple[list[HistoricalTrade], list[Offered], list[Batches]]:
    """Trades, candles, and for each of some writers the batches in which it writes them."""
    steps = draw(st.lists(st.sampled_from((1, 1, 1, 3)), min_size=20, max_size=20))
    trades = in_time(draw(distinct_trades(span=SPAN, most=20)), steps)
    candles = draw(st.lists(offered_candles(), max_size=8))
    once: list[Record] = [*trades, *candles]
    repeated = draw(st.lists(st.sampled_from(once), max_size=15)) if once else []
    shuffled = draw(st.permutations([*once, *repeated]))
    writers: list[Batches] = [[] for _ in range(draw(st.integers(1, 3)))]
    while shuffled:
        size = draw(st.integers(1, 12))
        draw(st.sampled_from(writers)).append(shuffled[:size])
        shuffled = shuffled[size:]
    return trades, candles, writers


def in_time(trades: Sequence[HistoricalTrade], steps: Sequence[int]) -> list[HistoricalTrade]:
    """The same trades with ids that differ by these steps, and times that follow them, as Kraken's do.

    Otherwise few minutes would be proven complete, and a proof could be taken back.
    """
    placed = []
    for symbol in {trade.symbol for trade in trades}:
        group = [trade for trade in trades if trade.symbol == symbol]
        times = sorted(trade.timestamp for trade in group)
        for trade, time, id_ in zip(group, times, accumulate(steps), strict=False):
            placed.append(replace(trade, id=id_, timestamp=time))
    return placed


def standing(trades: Sequence[HistoricalTrade], offered: Sequence[Offered]) -> list[HistoricalCandle]:
    """Of each minute the candle that must stand in the end, whatever came first."""
    best: dict[tuple[str, datetime], HistoricalCandle] = {}
    own = {(candle.symbol, candle.timestamp): candle for candle in build_candles(trades)}
    for candle in [*own.values(), *(replace(o.candle, source=o.source) for o in offered if o.candle.trade_count)]:
        key = candle.symbol, candle.timestamp
        best[key] = max(best.get(key, candle), candle, key=fullness)
    best |= {key: candle for key, candle in own.items() if is_proven([t for t in trades if t.symbol == key[0]], key[1])}
    return [best[key] for key in sorted(best)]


def is_proven(trades: Sequence[HistoricalTrade], minute: datetime) -> bool:
    """Whether these trades of one symbol prove that all trades of a minute are among them."""
    ordered = sorted(trades, key=lambda trade: trade.id)
    if not (ordered[0].timestamp < minute and minute + MINUTE <= ordered[-1].timestamp):
        return False
    return not any(
        floor_minute(before.timestamp) <= minute <= floor_minute(after.timestamp)
        for before, after in pairwise(ordered)
        if after.id - before.id > 1
    )


def fullness(candle: HistoricalCandle) -> tuple[object, ...]:
    c = candle
    return c.trade_count, RANKS[c.source], c.volume, c.high, -c.low, c.quote_volume, c.vwap, c.open, c.close


async def write_batches(store: Store, batches: Batches) -> None:
    for batch in batches:
        trades = [record for record in batch if isinstance(record, HistoricalTrade)]
        offers = [record for record in batch if isinstance(record, Offered)]
        await store.write(trades, [offer.candle for offer in offers if offer.source == "ohlc"])
        await store.write((), [offer.candle for offer in offers if offer.source == "csv"], candle_source="csv")


async def empty(pool: asyncpg.Pool) -> None:
    await pool.execute(
        "TRUNCATE trades, candles, data_sync_status, sync_keys, unheld_ids, absent_ids, contested_minutes,"
        " corrected_minutes"
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(way=ways_to_write())
async def test_any_way_of_writing_ends_in_the_same_rows(
    pool: asyncpg.Pool, way: tuple[list[HistoricalTrade], list[Offered], list[Batches]]
) -> None:
    trades, offered, writers = way

    await empty(pool)
    await write_batches(Store(pool), [[*trades, *offered]])
    once_in_order = await everything(pool)

    await empty(pool)
    async with asyncio.timeout(30):
        await asyncio.gather(*(write_batches(Store(pool), batches) for batches in writers))

    assert await everything(pool) == once_in_order
    assert await stored_trades(pool) == sorted(trades, key=lambda trade: (trade.symbol, trade.id))
    assert [row.candle for row in await stored_candles(pool)] == standing(trades, offered)
    by_symbol = {symbol: IdRanges.of(t.id for t in trades if t.symbol == symbol) for symbol in SYMBOLS}
    assert {symbol: held for symbol, held in (await ledger(pool)).items() if held} == {
        symbol: held for symbol, held in by_symbol.items() if held
    }
