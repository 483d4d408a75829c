"""Users in the roles of a migrated database, on either flavour."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

MakeUser = Callable[[str], Awaitable[str]]
"""From the options of CREATE ROLE to the URL of a new user of the migrated database."""


def url_for(database_url: str, user: str, password: str) -> str:
    """The URL of the same database for another user."""
    parts = urlsplit(database_url)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))


@pytest.fixture
async def superuser(migrated_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(migrated_database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def make_user(migrated_database_url: str, superuser: asyncpg.Connection) -> AsyncIterator[MakeUser]:
    """Users belong to the whole server, so they are dropped again."""
    made: list[str] = []

    async def make(options: str) -> str:
        user, password = f"test_{secrets.token_hex(6)}", secrets.token_hex(8)
        await superuser.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{password}' {options}")
        made.append(user)
        return url_for(migrated_database_url, user, password)

    yield make
    for user in made:
        await superuser.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")


@pytest.fixture
async def reader_url(make_user: MakeUser) -> str:
    return await make_user("IN ROLE kraken_reader")


@pytest.fixture
async def writer_url(make_user: MakeUser) -> str:
    return await make_user("IN ROLE kraken_writer")
