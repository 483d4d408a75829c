"""A database of either flavour, a store on it, and a provider that reads it over one connection."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.provider import HistoricalDataProvider
from kraken_history.storing.store import Store


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    opened = await create_pool(migrated_database_url, min_size=1, max_size=2)
    yield opened
    opened.terminate()


@pytest.fixture
def store(pool: asyncpg.Pool) -> Store:
    return Store(pool)


@pytest.fixture
async def provider(migrated_database_url: str) -> AsyncIterator[HistoricalDataProvider]:
    """With a single connection, what keeps it checked out stops whoever reads next."""
    async with HistoricalDataProvider(migrated_database_url, pool_min_size=1, pool_max_size=1) as opened:
        yield opened
