"""Servers to measure on: given ones or the embedded ones, with an empty database that is dropped afterwards."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from msgspec import Struct

from kraken_history.database.migrations import kept_capabilities, migrate
from kraken_history.embedded import Servers

SCRATCH = "kraken_history_benchmark"


class Place(Struct, frozen=True):
    """The servers to measure on."""

    database_url: str
    redis_url: str
    description: str


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
