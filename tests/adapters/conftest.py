"""A stored history with quiet minutes, twins within a millisecond and a hole, and readers of it."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalTrade, Side
from kraken_history.storing.store import Store
from tests.support.command import clean_environment, command  # noqa: F401 — fixtures
from tests.support.examples import NOON, make_trade
from tests.support.servers import DatabaseServer

SYMBOL = "BTC/USDT"
START, END = NOON, NOON + timedelta(minutes=30)
QUIET = (7, 8, 9)
"""Minutes without a trade, of which that is proven."""


def history() -> list[HistoricalTrade]:
    """From a minute before START to a minute after END: each minute has three equal trades of one instant, and more."""
    trades: list[HistoricalTrade] = []
    for minute in (n for n in range(-1, 32) if n not in QUIET):
        begin = NOON + timedelta(minutes=minute)
        twins = [(begin + timedelta(microseconds=250_001), "0.1", "105433.6")] * 3
        others = [
            (begin + timedelta(microseconds=250_900), "0.00027625", f"{105_400 + minute}.5"),
            (begin + timedelta(seconds=30), "0.2", f"{105_500 + minute}"),
            (begin + timedelta(seconds=59, microseconds=999_999), "1.5", "105433.1"),
        ]
        for at, volume, price in twins + others:
            side: Side = "buy" if len(trades) % 2 else "sell"
            type_ = "market" if len(trades) % 3 else "limit"
            trades.append(make_trade(1000 + len(trades), at, price, volume, side=side, order_type=type_))
    return trades


@pytest.fixture(scope="session")
def database_server(_postgresql_server: DatabaseServer) -> DatabaseServer:
    """One kind of server: these tests are about what is made of a read, and other tests read from both."""
    return _postgresql_server


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
        yield pool


@pytest.fixture
async def filled(pool: asyncpg.Pool, migrated_database_url: str) -> str:
    await Store(pool).write(history())
    return migrated_database_url


@pytest.fixture
async def provider(filled: str) -> AsyncIterator[HistoricalDataProvider]:
    async with HistoricalDataProvider(filled, 1, 2) as provider:
        yield provider
