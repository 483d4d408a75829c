"""Candles as of an instant are those that could be read at that instant."""

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest

from kraken_history.errors import InvalidTime, UnknownSymbol, UsageError
from kraken_history.provider import HistoricalDataProvider
from kraken_history.storing.candle_building import build_candles_from_trades
from kraken_history.storing.store import Store
from tests.support.examples import NOON, make_candle, make_trade

SYMBOL = "BTC/USDT"
MINUTE = timedelta(minutes=1)
END = NOON + timedelta(hours=2)


async def instant(pool: asyncpg.Pool) -> datetime:
    """By the database's clock, which stamps what is stored."""
    moment: datetime = await pool.fetchval("SELECT clock_timestamp()")
    return moment


async def test_a_healed_trade_was_not_known_before(
    store: Store, pool: asyncpg.Pool, provider: HistoricalDataProvider
) -> None:
    await store.write([make_trade(1, NOON, "100"), make_trade(3, NOON + 5 * MINUTE, "101")])
    before = await instant(pool)
    await store.write([make_trade(2, NOON + 10 * timedelta(seconds=1), "500")])
    after = await instant(pool)

    for interval, candles in ((1, 2), (3, 2), (5, 2), (60, 1)):
        known = await provider.get_candles(SYMBOL, interval, NOON, END, as_of=before)
        assert (len(known), known[0].high, sum(c.trade_count for c in known)) == (
            candles,
            Decimal(101 if interval == 60 else 100),
            2,
        )
        present = await provider.get_candles(SYMBOL, interval, NOON, END, gaps="ignore")
        assert await provider.get_candles(SYMBOL, interval, NOON, END, as_of=after) == present != known


async def test_nothing_was_known_before_anything_was_stored(
    store: Store, pool: asyncpg.Pool, provider: HistoricalDataProvider
) -> None:
    before = await instant(pool)
    await store.write([make_trade(1)], [make_candle(NOON + MINUTE)])

    assert await provider.get_candles(SYMBOL, 1, NOON, END, as_of=before) == []
    assert await provider.get_candles(SYMBOL, 15, NOON, END, as_of=before) == []


async def test_a_candle_of_another_source_that_stands_in_later_does_not_hide_the_trades(
    store: Store, pool: asyncpg.Pool, provider: HistoricalDataProvider
) -> None:
    await store.write([make_trade(1, NOON, "100.5")])
    known = await provider.get_candles(SYMBOL, 1, NOON, END, gaps="ignore")
    before = await instant(pool)
    await store.write([], [make_candle(trade_count=7)])

    assert await provider.get_candles(SYMBOL, 1, NOON, END, as_of=before) == known
    assert [c.trade_count for c in await provider.get_candles(SYMBOL, 1, NOON, END, gaps="ignore")] == [7]


async def test_a_candle_of_the_exchange_that_trades_replaced_is_known_no_more(
    store: Store, pool: asyncpg.Pool, provider: HistoricalDataProvider
) -> None:
    await store.write([], [make_candle(trade_count=2), make_candle(NOON + MINUTE, trade_count=2)])
    before = await instant(pool)
    await store.write([make_trade(n, NOON) for n in (1, 2)])

    known = await provider.get_candles(SYMBOL, 1, NOON, END, as_of=before)
    assert [candle.timestamp for candle in known] == [NOON + MINUTE]


async def test_a_candle_that_is_built_anew_counts_as_changed(
    store: Store, pool: asyncpg.Pool, provider: HistoricalDataProvider
) -> None:
    await store.write([make_trade(1, NOON, "100"), make_trade(2, NOON, "100")])
    await pool.execute("UPDATE candles SET high = 900")
    before = await instant(pool)
    assert await build_candles_from_trades(pool, SYMBOL, NOON, NOON + MINUTE) == 1

    assert await pool.fetchval("SELECT stored_at > $1 FROM candles", before)
    assert [candle.high for candle in await provider.get_candles(SYMBOL, 1, NOON, END, as_of=before)] == [100]


async def test_what_waited_for_another_writer_counts_from_when_it_was_written(
    store: Store, pool: asyncpg.Pool, provider: HistoricalDataProvider
) -> None:
    # Stamped with the start of its transaction, a trade that came into the database later than an instant counted
    # as known then, because its writer had begun before and waited for the symbol.
    await store.write([make_trade(1)])
    async with asyncio.timeout(30), pool.acquire() as other:
        async with other.transaction():
            await other.execute("SELECT FROM sync_keys FOR UPDATE")
            writing = asyncio.create_task(store.write([make_trade(2, NOON + MINUTE)]))
            while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                assert not writing.done()
                await asyncio.sleep(0.01)
            meanwhile = await instant(pool)
        await writing

    assert [c.timestamp for c in await provider.get_candles(SYMBOL, 1, NOON, END, as_of=meanwhile)] == [NOON]


async def test_as_of_a_time_to_come_is_the_present(store: Store, provider: HistoricalDataProvider) -> None:
    await store.write([make_trade(1)])

    for as_of in (datetime.now(NOON.tzinfo) + timedelta(days=1), datetime.max.replace(tzinfo=NOON.tzinfo)):
        known = await provider.get_candles(SYMBOL, 60, NOON, END, as_of=as_of)
        assert known == await provider.get_candles(SYMBOL, 60, NOON, END, gaps="ignore") != []


async def test_a_limit_keeps_the_oldest(store: Store, pool: asyncpg.Pool, provider: HistoricalDataProvider) -> None:
    await store.write([make_trade(n, NOON + n * MINUTE) for n in range(1, 6)])
    before = await instant(pool)
    await store.write([make_trade(9, NOON)])

    known = await provider.get_candles(SYMBOL, 1, NOON, END, 2, as_of=before)
    assert [candle.timestamp for candle in known] == [NOON + MINUTE, NOON + 2 * MINUTE]


async def test_what_cannot_be_answered_is_refused(store: Store, provider: HistoricalDataProvider) -> None:
    await store.write([make_trade(1)])

    with pytest.raises(InvalidTime):
        await provider.get_candles(SYMBOL, 1, NOON, END, as_of=NOON.replace(tzinfo=None))
    with pytest.raises(UnknownSymbol):
        await provider.get_candles("DOGE/USDT", 1, NOON, END, as_of=NOON)
    with pytest.raises(UsageError, match="gaps='ignore'"):
        await provider.get_candles(SYMBOL, 1, NOON, END, gaps="raise", as_of=NOON)
