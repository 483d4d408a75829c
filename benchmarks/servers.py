"""Servers to measure on: given ones or the embedded ones, with an empty database that is dropped afterwards."""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from msgspec import Struct

from kraken_history.database.migrations import kept_capabilities, migrate
from kraken_history.embedded import Servers
from kraken_history.errors import UsageError
from tests.support.servers import TimescaleCluster, timescaledb_bin_dir

SCRATCH = "kraken_history_benchmark"

Flavour = Literal["plain", "timescaledb"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)


class Place(Struct, frozen=True):
    """The servers to measure on."""

    database_url: str
    redis_url: str
    description: str


class EmptyServers(Struct, frozen=True):
    """Servers on which databases are created one by one.

    Attributes:
        database_url: Of a user who may create databases.
        flavour: The kind of the database's server.
    """

    database_url: str
    redis_url: str
    flavour: str

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """The URL of an empty database without our schema, which is dropped in the end."""
        name = f"{SCRATCH}_{secrets.token_hex(4)}"
        connection = await asyncpg.connect(self.database_url)
        try:
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
            yield urlunsplit(urlsplit(self.database_url)._replace(path=f"/{name}"))
        finally:
            await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await connection.close()


@asynccontextmanager
async def empty_servers(
    flavour: Flavour, database_url: str | None = None, redis_url: str | None = None
) -> AsyncIterator[EmptyServers]:
    """The given servers, or else the embedded Redis, and the embedded PostgreSQL or an installed one with TimescaleDB.

    Raises:
        UsageError: No PostgreSQL with TimescaleDB is installed.
    """
    with tempfile.TemporaryDirectory(prefix="kraken-history-benchmark-") as folder:
        await asyncio.to_thread(Path(folder).chmod, 0o711)  # the servers may run as another user
        async with AsyncExitStack() as stack:
            wants_embedded = database_url is None and flavour == "plain"
            if wants_embedded or redis_url is None:
                servers = Servers(Path(folder) / "data")
                await asyncio.to_thread(servers.start)
                stack.push_async_callback(asyncio.to_thread, servers.stop)
                redis_url = redis_url or servers.redis_url
                database_url = database_url or (servers.database_url if wants_embedded else None)
            if database_url is None:
                database_url = await stack.enter_async_context(_installed_timescaledb(Path(folder)))
            yield EmptyServers(database_url, redis_url, flavour)


@asynccontextmanager
async def _installed_timescaledb(folder: Path) -> AsyncIterator[str]:
    bin_dir = timescaledb_bin_dir()
    if bin_dir is None:
        raise UsageError("expected an installed PostgreSQL with TimescaleDB, got none: give --database-url")
    cluster = TimescaleCluster(bin_dir, folder, durable=True)
    await asyncio.to_thread(cluster.start)
    try:
        yield cluster.url
    finally:
        await asyncio.to_thread(cluster.stop)


@asynccontextmanager
async def measured_servers(database_url: str | None, redis_url: str | None) -> AsyncIterator[Place]:
    """An empty, migrated database on the given server, or on embedded ones in a temporary directory.

    Args:
        database_url: A server on which a database may be created.
        redis_url: A Redis that may be emptied.
    """
    with tempfile.TemporaryDirectory(prefix="kraken-history-benchmark-") as folder:
        servers = Servers(Path(folder) / "data")
        if database_url is None or redis_url is None:
            await asyncio.to_thread(servers.start)
        try:
            if database_url is None:
                await _keep_commit_times(servers)
            async with _scratch_database(database_url or servers.database_url) as scratch:
                yield Place(scratch, redis_url or servers.redis_url, await _describe(scratch))
        finally:
            if database_url is None or redis_url is None:
                await asyncio.to_thread(servers.stop)


async def _keep_commit_times(servers: Servers) -> None:
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute("ALTER SYSTEM SET track_commit_timestamp = on")
    await connection.close()
    await asyncio.to_thread(servers.stop)
    await asyncio.to_thread(servers.start)


@asynccontextmanager
async def _scratch_database(server_url: str) -> AsyncIterator[str]:
    scratch = urlunsplit(urlsplit(server_url)._replace(path=f"/{SCRATCH}"))
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f"DROP DATABASE IF EXISTS {SCRATCH} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {SCRATCH}")
        await migrate(scratch)
        yield scratch
        await connection.execute(f"DROP DATABASE {SCRATCH} WITH (FORCE)")
    finally:
        await connection.close()


async def _describe(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        version = await connection.fetchval("SHOW server_version")
        extension = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
        capabilities = ", ".join(sorted(await kept_capabilities(connection))) or "plain"
        settings = {
            name: await connection.fetchval(f"SHOW {name}")
            for name in ("fsync", "synchronous_commit", "shared_buffers")
        }
    finally:
        await connection.close()
    timescale = f" with TimescaleDB {extension}" if extension else ""
    return f"PostgreSQL {version}{timescale} ({capabilities}); " + ", ".join(f"{k} {v}" for k, v in settings.items())
