"""Histories to verify, and what a verification finds in them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg

from kraken_history.reading.verification import Verification, verify
from kraken_history.records import HistoricalTrade
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.store import Store
from tests.support.examples import make_candle, make_trade

MONDAY = datetime(2025, 11, 10, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LATER = MONDAY + 30 * DAY
SYMBOL, OTHER = "BTC/USDT", "ETH/USDT"


def history(symbol: str = SYMBOL, *, days: int = 3) -> list[HistoricalTrade]:
    """Three trades in each minute that has any, every ten minutes."""
    return [
        make_trade(n, MONDAY + (n // 3) * 10 * timedelta(minutes=1) + n % 3 * timedelta(seconds=7),
                   f"{100 + n % 9}.5", f"0.{1 + n % 5}", symbol=symbol)
        for n in range(3, 3 + days * 144 * 3)
    ]  # fmt: skip


async def store_history(pool: asyncpg.Pool) -> None:
    """Two symbols with trades; one has candles of the exchange and of a download as well; refreshed."""
    store = Store(pool)
    await store.write(history())
    await store.write(history(OTHER), [make_candle(MONDAY + 12 * HOUR + timedelta(minutes=3), symbol=OTHER)])
    await store.write((), [make_candle(MONDAY + 4 * DAY, symbol=OTHER)], candle_source="csv")
    await refresh(pool, now=LATER)


async def verified(
    pool: asyncpg.Pool,
    symbols: Sequence[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Verification:
    async with pool.acquire() as connection:
        return await verify(connection, symbols, start, end)
