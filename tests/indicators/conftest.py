"""A migrated database of either flavour."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.provider import HistoricalDataProvider
from tests.support.command import clean_environment, command  # noqa: F401 — fixtures


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    opened = await create_pool(migrated_database_url, min_size=1, max_size=2)
    yield opened
    opened.terminate()


@pytest.fixture
async def provider(migrated_database_url: str) -> AsyncIterator[HistoricalDataProvider]:
    async with HistoricalDataProvider(migrated_database_url, 1, 1) as opened:
        yield opened
