"""A history whose longer candles are partly stored, partly stale and partly not refreshed yet."""

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalTrade
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.store import Store

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
END = START + timedelta(days=21)
SYMBOL = "BTC/USDT"


def make_trades(ids: range, start: datetime, end: datetime, *, seed: int) -> list[HistoricalTrade]:
    """Trades in the order of their ids, with prices and volumes of all lengths."""
    rng = random.Random(seed)
    seconds = sorted(rng.uniform(0, (end - start).total_seconds()) for _ in ids)
    return [
        HistoricalTrade(
            id_,
            SYMBOL,
            start + timedelta(microseconds=int(second * 1e6)),
            Decimal(rng.randint(1, 10**9)).scaleb(-rng.randint(0, 6)),
            Decimal(rng.randint(1, 10**12)).scaleb(-rng.randint(4, 8)),
            "buy",
            "limit",
        )
        for id_, second in zip(ids, seconds, strict=True)
    ]


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    opened = await create_pool(migrated_database_url, min_size=1, max_size=2)
    yield opened
    opened.terminate()


@pytest.fixture
async def provider(pool: asyncpg.Pool, migrated_database_url: str) -> AsyncIterator[HistoricalDataProvider]:
    """Three weeks."""
    await Store(pool).write(make_trades(range(1, 850), START, END, seed=1))
    async with HistoricalDataProvider(migrated_database_url, 1, 2) as opened:
        yield opened


@pytest.fixture
async def stale_provider(pool: asyncpg.Pool, migrated_database_url: str) -> AsyncIterator[HistoricalDataProvider]:
    """Three weeks; the second one came after the aggregates were refreshed, the end of the third last."""
    store = Store(pool)
    await store.write(make_trades(range(1, 300), START, START + timedelta(days=8), seed=1))
    await store.write(make_trades(range(600, 800), START + timedelta(days=15), START + timedelta(days=20), seed=3))
    await refresh(pool)
    await store.write(make_trades(range(300, 600), START + timedelta(days=8), START + timedelta(days=15), seed=2))
    await store.write(make_trades(range(800, 850), START + timedelta(days=20), END, seed=4))
    async with HistoricalDataProvider(migrated_database_url, 1, 2) as opened:
        yield opened
