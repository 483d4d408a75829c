"""Candles built anew from the stored trades."""

from datetime import datetime, timedelta

import asyncpg

from kraken_history.fetching.backfill import build_candles_from_trades
from kraken_history.storing.store import Store
from tests.support.contents import StoredCandle, stale_hours, stored_candles
from tests.support.records import NOON, trades

SYMBOL = "BTC/USDT"


async def filled(pool: asyncpg.Pool) -> list[StoredCandle]:
    """200 trades of 24 minutes, and another symbol's."""
    await Store(pool).write([*trades(range(1, 201)), *trades(range(1, 9), "ETH/USDT")])
    return await stored_candles(pool)


def minute(number: int) -> datetime:
    return NOON + timedelta(minutes=number)


async def test_candles_that_were_lost_come_back_as_they_were(pool: asyncpg.Pool) -> None:
    before = await filled(pool)
    await pool.execute("DELETE FROM candles WHERE symbol = $1", SYMBOL)

    built = await build_candles_from_trades(pool, SYMBOL, minute(-3000), minute(3000))

    assert await stored_candles(pool) == before
    assert built == sum(c.candle.symbol == SYMBOL for c in before)


async def test_candles_that_are_right_are_left_alone(pool: asyncpg.Pool) -> None:
    await filled(pool)

    assert await build_candles_from_trades(pool, SYMBOL, minute(0), minute(60)) == 0


async def test_candles_that_were_garbled_are_put_right(pool: asyncpg.Pool) -> None:
    before = await filled(pool)
    await pool.execute("UPDATE candles SET open = 1, close = 2, vwap = 3, volume = 4 WHERE timestamp >= $1", minute(10))

    await build_candles_from_trades(pool, SYMBOL, minute(0), minute(60))

    assert [c for c in await stored_candles(pool) if c.candle.symbol == SYMBOL] == [
        c for c in before if c.candle.symbol == SYMBOL
    ]


async def test_a_minute_that_the_range_cuts_is_built_whole(pool: asyncpg.Pool) -> None:
    before = await filled(pool)
    await pool.execute("DELETE FROM candles")

    start, end = minute(4) + timedelta(seconds=31), minute(6) + timedelta(seconds=1)
    assert await build_candles_from_trades(pool, SYMBOL, start, end) == 3

    wanted = [c for c in before if c.candle.symbol == SYMBOL and minute(4) <= c.candle.timestamp <= minute(6)]
    assert await stored_candles(pool) == wanted


async def test_the_end_is_not_in_the_range(pool: asyncpg.Pool) -> None:
    await filled(pool)
    await pool.execute("DELETE FROM candles")

    assert await build_candles_from_trades(pool, SYMBOL, minute(4), minute(5)) == 1
    assert await build_candles_from_trades(pool, SYMBOL, minute(5), minute(5)) == 0


async def test_the_candle_of_trades_that_were_dropped_stays(pool: asyncpg.Pool) -> None:
    """Retention drops trades before their candles; what is left must not make a smaller one."""
    before = await filled(pool)
    await pool.execute("DELETE FROM trades WHERE timestamp < $1", minute(5) + timedelta(seconds=30))

    assert await build_candles_from_trades(pool, SYMBOL, minute(0), minute(60)) == 0
    assert await stored_candles(pool) == before


async def test_a_fuller_candle_of_the_exchange_stays_only_where_the_minute_is_not_proven(pool: asyncpg.Pool) -> None:
    """Of the minute in which the history begins, trades may be missing."""
    await filled(pool)
    await pool.execute(
        """
        UPDATE candles SET source = 'ohlc', first_trade_id = NULL, last_trade_id = NULL,
                           trade_count = trade_count + CASE WHEN timestamp < $1 THEN 1 ELSE 0 END
        """,
        minute(10),
    )

    await build_candles_from_trades(pool, SYMBOL, minute(0), minute(60))

    sources = {c.candle.timestamp: c.source for c in await stored_candles(pool) if c.candle.symbol == SYMBOL}
    first, *later = sorted(sources)
    assert first < minute(10)
    assert sources[first] == "ohlc"
    assert {sources[at] for at in later} == {"trades"}


async def test_the_hours_are_marked_to_be_refreshed(pool: asyncpg.Pool) -> None:
    await filled(pool)
    await pool.execute("DELETE FROM candles")
    await pool.execute("DELETE FROM stale_hours")

    await build_candles_from_trades(pool, SYMBOL, minute(0), minute(60))

    assert await stale_hours(pool, SYMBOL) == [(NOON, NOON + timedelta(hours=1))]
