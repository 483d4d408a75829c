"""A history with a stretch of each kind, ten minutes or so each, and what is stored of it.

Trades come every minute from 12:00 to 13:59, except in the quiet stretch; the ids go on across it. Of the stretches
that the hole and the exchange's candles leave, the minutes on both sides belong to them, because they may lack trades.
"""

from datetime import timedelta

import asyncpg

from kraken_history.completeness.covered_time import cover_minutes
from kraken_history.records import MINUTE, HistoricalTrade, TimeRange
from kraken_history.storing.store import Store
from tests.support.examples import NOON, make_candle, make_trade

SYMBOL = "BTC/USDT"
END = NOON + timedelta(hours=2)


def minutes(first: int, last: int) -> TimeRange:
    return TimeRange(NOON + first * MINUTE, NOON + last * MINUTE)


WHOLE = minutes(0, 119)
"""All of it, but for the last minute, whose trade is the newest: nothing is known after it."""

STRETCHES = {
    "proven": minutes(0, 10),
    "quiet": minutes(10, 20),
    "hole": minutes(30, 41),
    "exchange": minutes(60, 71),
    "dropped": minutes(90, 100),
}
TRADED = [
    n for n in range(120) if not (10 <= n < 20 or 30 < n < 40 or 60 < n < 70 or 90 <= n < 100)
]  # the minutes of stored trades

MISSING_CANDLES = [STRETCHES["hole"], STRETCHES["dropped"]]
MISSING_TRADES = [STRETCHES["hole"], STRETCHES["exchange"], STRETCHES["dropped"]]


def stored_trades() -> list[HistoricalTrade]:
    quiet, lost = range(10, 20), (*range(31, 40), *range(61, 70))
    made = [n for n in range(120) if n not in quiet]
    return [make_trade(id_, NOON + n * MINUTE, f"{100 + n}") for id_, n in enumerate(made, 1) if n not in lost]


async def store_stretches(pool: asyncpg.Pool) -> None:
    """Store it all: the trades, Kraken's candles where its stretch is, and what retention leaves of the dropped one."""
    await Store(pool).write(stored_trades())
    exchange = [NOON + n * MINUTE for n in range(60, 71)]
    await Store(pool).write((), [make_candle(minute, trade_count=9) for minute in exchange])
    await cover_minutes(pool, SYMBOL, exchange)
    dropped = STRETCHES["dropped"]
    for table in ("trades", "candles"):
        await pool.execute(
            f"DELETE FROM {table} WHERE timestamp >= $1 AND timestamp < $2",  # noqa: S608 — one of two names
            dropped.start,
            dropped.end,
        )
        await pool.execute(
            "INSERT INTO dropped_ranges VALUES ($1, $2)", table, [asyncpg.Range(dropped.start, dropped.end)]
        )
