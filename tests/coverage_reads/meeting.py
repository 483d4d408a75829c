"""Something happens to the database in the middle of a read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from kraken_history.database.connections import Connection


@asynccontextmanager
async def locked(pool: asyncpg.Pool, table: str) -> AsyncIterator[Connection]:
    """A transaction that nobody can read this table past, until it is committed at the end."""
    async with pool.acquire() as holder, holder.transaction():
        await holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield holder


async def until_blocked(holder: Connection, reading: asyncio.Task[object]) -> None:
    """Wait until the reader waits for the lock."""
    async with asyncio.timeout(30):
        while not await holder.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not reading.done()
            await asyncio.sleep(0.01)
