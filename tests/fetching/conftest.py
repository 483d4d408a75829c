"""A database with the whole schema, and a store on it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from kraken_history.database.connections import create_pool


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=4) as pool:
        yield pool
