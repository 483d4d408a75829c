"""A migrated database of either flavour, a store on it, users of its roles, and the command."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.storing.store import Store
from tests.roles.conftest import make_user as make_user
from tests.roles.conftest import reader_url as reader_url
from tests.roles.conftest import superuser as superuser
from tests.roles.conftest import writer_url as writer_url
from tests.support.command import clean_environment as clean_environment
from tests.support.command import command as command


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    opened = await create_pool(migrated_database_url, min_size=1, max_size=4)
    yield opened
    opened.terminate()


@pytest.fixture
def store(pool: asyncpg.Pool) -> Store:
    return Store(pool)
