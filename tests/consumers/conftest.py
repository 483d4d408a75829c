"""A database, a Redis, and what stands in them."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from redis.asyncio import Redis

from kraken_history.database.connections import create_pool


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    """Connections to a database with the schema and no rows."""
    async with await create_pool(migrated_database_url, min_size=1, max_size=6) as pool:
        yield pool


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of an empty Redis, not disturbed by what a test does to the consumer's own."""
    async with Redis.from_url(redis_url) as redis:
        yield redis
