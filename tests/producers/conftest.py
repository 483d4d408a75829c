"""A Redis in this process."""

from collections.abc import AsyncIterator

import fakeredis
import pytest


@pytest.fixture
async def redis() -> AsyncIterator[fakeredis.FakeAsyncRedis]:
    """An empty Redis that speaks no network."""
    async with fakeredis.FakeAsyncRedis() as redis:
        yield redis
