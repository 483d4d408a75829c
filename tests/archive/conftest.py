"""A history of three months with what a history has: a hole, an absent id, other sources, and several symbols."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from kraken_history.archive.place import Folder
from kraken_history.archive.writing import ArchivedMonth, archive
from kraken_history.completeness.covered_time import cover
from kraken_history.database.connections import create_pool
from kraken_history.records import HistoricalTrade, RefusedTrade, TimeRange
from kraken_history.storing.store import Store
from tests.support.command import clean_environment, command  # noqa: F401 — fixtures
from tests.support.examples import make_candle, make_trade
from tests.support.servers import DatabaseServer

BTC, ETH = "BTC/USDT", "ETH/USDT"
START = datetime(2025, 10, 28, 23, 50, tzinfo=UTC)
STEP = timedelta(hours=46, minutes=7, microseconds=123_457)
HOLE = range(8, 10)  # in November
REFUSED = 12
LAST = 33
NOW = datetime(2026, 1, 15, tzinfo=UTC)
CLOSED = ("2025-10", "2025-11", "2025-12")


def trade(id_: int, symbol: str = BTC) -> HistoricalTrade:
    """A trade whose fields follow from its id; the ids 1 to 33 are of October to December."""
    price = f"{60_000 + id_ * 37 % 101}.{id_ % 10}" if symbol == BTC else f"0.{id_:08}"
    return make_trade(
        id_,
        START + id_ * STEP,
        price,
        f"{1 + id_ % 13}.{id_:05}",
        symbol=symbol,
        side="buy" if id_ % 3 else "sell",
        order_type="market" if id_ % 2 else "limit",
        misc="" if id_ % 5 else 'a "quoted",\nmisc',
    )


TRADES = [trade(id_) for id_ in range(1, LAST + 1) if id_ not in HOLE and id_ != REFUSED]
OF_ETH = [trade(id_, ETH) for id_ in range(1, LAST + 1)]


async def store_history(pool: asyncpg.Pool) -> None:
    """Store it all."""
    store = Store(pool)
    gone = trade(REFUSED)
    await store.write(TRADES, refused=[RefusedTrade(gone.id, BTC, gone.timestamp, "a price of zero")])
    await store.write(OF_ETH)
    quiet = datetime(2025, 11, 10, 12, tzinfo=UTC)
    await store.write((), [make_candle(quiet, trade_count=3), make_candle(quiet + timedelta(minutes=3))])
    await store.write((), [make_candle(quiet + timedelta(minutes=1), close="0.1234567891234")], candle_source="csv")
    async with pool.acquire() as connection:
        await cover(connection, ETH, TimeRange(START - timedelta(days=1), START + STEP))


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    opened = await create_pool(migrated_database_url, min_size=1, max_size=4)
    yield opened
    opened.terminate()


@pytest.fixture
async def other(database_server: DatabaseServer) -> AsyncIterator[asyncpg.Pool]:
    """A second database, migrated and empty."""
    url = database_server.create_migrated_database()
    opened = await create_pool(url, min_size=1, max_size=4)
    yield opened
    opened.terminate()
    database_server.drop_database(url)


@pytest.fixture
async def history(pool: asyncpg.Pool) -> asyncpg.Pool:
    """A database that holds the history."""
    await store_history(pool)
    return pool


@pytest.fixture
def place(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "archive")


async def archived(pool: asyncpg.Pool, place: Folder, *symbols: str) -> list[ArchivedMonth]:
    """Archive, and return the outcome of each month."""
    return [month async for month in archive(pool, place, symbols or (BTC, ETH), now=NOW)]
