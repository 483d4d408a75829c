"""Trades to store, and storing them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg

from kraken_history.completeness.covered_time import cover_candles
from kraken_history.records import HistoricalTrade, TimeRange
from kraken_history.storing.store import Store
from tests.support.examples import make_candle

START = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)  # a Monday


def trade(id_: int, seconds: float = 0, *, symbol: str = "BTC/USDT", price: str = "100.10") -> HistoricalTrade:
    return HistoricalTrade(
        id_, symbol, START + timedelta(seconds=seconds), Decimal(price), Decimal("0.00000150"), "buy", "limit"
    )


async def store(database_url: str, trades: Sequence[HistoricalTrade]) -> None:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        await Store(pool).write(trades)


async def execute(database_url: str, statement: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute(statement)
    await connection.close()


async def import_days(database_url: str, start: datetime, days: int, symbol: str = "BTC/USDT") -> None:
    """A candle each hour, as from a download: the minutes between are quiet."""
    candles = [make_candle(start + n * timedelta(hours=1), symbol=symbol) for n in range(24 * days)]
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        await Store(pool).write(candles=candles, candle_source="csv")
    connection = await asyncpg.connect(database_url)
    await cover_candles(connection, symbol, TimeRange(start, start + timedelta(days=days)))
    await connection.close()
