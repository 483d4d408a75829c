"""A migrated database of either flavour, a store and a provider on it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.provider import HistoricalDataProvider
from kraken_history.storing.store import Store


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    opened = await create_pool(migrated_database_url, min_size=1, max_size=3)
    yield opened
    opened.terminate()


@pytest.fixture
def store(pool: asyncpg.Pool) -> Store:
    return Store(pool)


@pytest.fixture
async def provider(migrated_database_url: str) -> AsyncIterator[HistoricalDataProvider]:
    async with HistoricalDataProvider(migrated_database_url, 1, 2) as opened:
        yield opened
