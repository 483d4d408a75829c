"""A migrated database of either flavour."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from kraken_history.postgres import create_pool


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    opened = await create_pool(migrated_database_url, min_size=1, max_size=2)
    yield opened
    opened.terminate()
