"""The connections of a reader, and their errors in our words."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from kraken_history.errors import ProviderClosed, ServiceUnavailable
from kraken_history.migrations import check_schema
from kraken_history.postgres import UNAVAILABLE, Connection, connect, create_pool, without_password


class Database:
    """A pool of connections for reading; may be opened and closed any number of times.

    Args:
        url: ``postgresql://user:password@host:5432/name``; several hosts, comma between, are tried in turn, and
            ``?target_session_attrs=prefer-standby`` prefers a replica.
    """

    def __init__(self, url: str, pool_min_size: int, pool_max_size: int) -> None:
        self.url = url
        self._min_size = pool_min_size
        self._max_size = pool_max_size
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    @property
    def pool(self) -> asyncpg.Pool:
        """The open pool.

        Raises:
            ProviderClosed: It is not open.
        """
        if self._pool is None:
            raise ProviderClosed
        return self._pool

    async def open(self) -> None:
        """Connect, unless that is done.

        Raises:
            UsageError: The URL cannot be used as it is.
            ServiceUnavailable: No database answers there.
            SchemaMismatch: The database is older or newer than this code.
        """
        async with self._opening:
            if self._pool is None:
                self._pool = await self._create_pool()

    async def _create_pool(self) -> asyncpg.Pool:
        pool = await create_pool(self.url, min_size=self._min_size, max_size=self._max_size, replans=True)
        try:
            async with pool.acquire() as connection:
                await check_schema(connection)
        except BaseException:
            await pool.close()
            raise
        return pool

    async def close(self) -> None:
        """Disconnect, unless that is done."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """All rows of a query.

        Raises:
            ProviderClosed: The pool is not open.
            ServiceUnavailable: The database is gone.
        """
        async with self.connection() as connection:
            return await connection.fetch(query, *arguments)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One connection, for several statements; errors as :meth:`fetch`."""
        pool = self.pool
        try:
            async with pool.acquire() as connection:
                yield connection
        except UNAVAILABLE as error:
            raise self.unavailable(error) from error

    async def connect(self) -> asyncpg.Connection:
        """A connection of one's own, beside the pool; whoever asks for it closes it. Errors as :meth:`open`."""
        return await connect(self.url)

    def unavailable(self, error: BaseException) -> ServiceUnavailable:
        """Our error for a database that went away."""
        reason = str(error) or type(error).__name__
        return ServiceUnavailable(f"the database at {without_password(self.url)} is gone ({reason}): try again")
