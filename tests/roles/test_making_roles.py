"""Roles belong to a whole cluster: migrations make them where they are missing, whoever else does at that moment."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest

from kraken_history.database.migrations import migrate
from kraken_history.errors import SchemaMismatch
from tests.roles.conftest import url_for
from tests.support.servers import DatabaseServer

ROLES = ("kraken_reader", "kraken_writer")


@pytest.fixture
async def admin(database_server: DatabaseServer) -> AsyncIterator[asyncpg.Connection]:
    """On a server that has neither role for the time of the test: other databases' are called something else."""
    connection = await asyncpg.connect(database_server.url_of("postgres"))
    had = [
        row["rolname"] for row in await connection.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY ($1)", ROLES)
    ]
    for role in had:
        await connection.execute(f"ALTER ROLE {role} RENAME TO {role}_aside")
    yield connection
    for role in ROLES:
        await connection.execute(f"DROP ROLE IF EXISTS {role}")
    for role in had:
        await connection.execute(f"ALTER ROLE {role}_aside RENAME TO {role}")
    await connection.close()


@pytest.fixture
async def databases(admin: asyncpg.Connection, database_server: DatabaseServer) -> AsyncIterator[list[str]]:
    """Two, empty."""
    urls = [database_server.create_database() for _ in range(2)]
    yield urls
    for url in urls:
        database_server.drop_database(url)


@pytest.fixture
async def migrator_url(admin: asyncpg.Connection, databases: list[str]) -> AsyncIterator[str]:
    """The owner of the first database, who may not create roles."""
    user, password = f"test_{secrets.token_hex(6)}", secrets.token_hex(8)
    name = databases[0].rpartition("/")[2]
    await admin.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{password}'")
    await admin.execute(f'ALTER DATABASE "{name}" OWNER TO {user}')
    yield url_for(databases[0], user, password)
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.execute(f"DROP ROLE {user}")


async def can_read(url: str) -> list[bool]:
    connection = await asyncpg.connect(url)
    try:
        return [
            await connection.fetchval("SELECT has_table_privilege($1, 'candles', 'SELECT')", role) for role in ROLES
        ]
    finally:
        await connection.close()


async def test_two_databases_of_a_cluster_are_migrated_at_once(databases: list[str]) -> None:
    await asyncio.gather(*map(migrate, databases))

    assert [await can_read(url) for url in databases] == [[True, True]] * 2


async def test_a_role_that_somebody_is_just_making_is_waited_for(
    admin: asyncpg.Connection, databases: list[str]
) -> None:
    async with asyncio.timeout(60):
        async with admin.transaction():
            await admin.execute("CREATE ROLE kraken_reader NOLOGIN")
            migrating = asyncio.create_task(migrate(databases[0]))
            while not await admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                assert not migrating.done()
                await asyncio.sleep(0.01)
        await migrating

    assert await can_read(databases[0]) == [True, True]


async def test_who_may_not_make_roles_is_told_what_to_have_run(admin: asyncpg.Connection, migrator_url: str) -> None:
    with pytest.raises(SchemaMismatch, match="may not create roles: have a superuser run") as refusal:
        await migrate(migrator_url)
    (statements,) = re.findall("`(.*)`", str(refusal.value))
    assert statements == "CREATE ROLE kraken_reader NOLOGIN; CREATE ROLE kraken_writer NOLOGIN"

    await admin.execute(statements)
    await migrate(migrator_url)

    assert await can_read(migrator_url) == [True, True]
