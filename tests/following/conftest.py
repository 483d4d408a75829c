"""A database to write to and to read from."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.storing.store import Store
from tests.support.followed import Watched


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=3) as pool:
        yield pool


@pytest.fixture
def store(pool: asyncpg.Pool) -> Store:
    return Store(pool)


@pytest.fixture
async def database(migrated_database_url: str) -> AsyncIterator[Watched]:
    database = Watched(migrated_database_url, 1, 4)
    await database.open()
    yield database
    await database.close()
