"""A store, and a reader beside it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.provider import HistoricalDataProvider
from kraken_history.storing.store import Store
from tests.support.command import clean_environment, command  # noqa: F401 — fixtures


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
        yield pool


@pytest.fixture
def store(pool: asyncpg.Pool) -> Store:
    return Store(pool)


@pytest.fixture
async def history(migrated_database_url: str) -> AsyncIterator[HistoricalDataProvider]:
    async with HistoricalDataProvider(migrated_database_url, 1, 2) as history:
        yield history
