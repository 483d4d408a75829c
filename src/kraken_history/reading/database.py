"""The connections of a reader, and their errors in our words."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from kraken_history.database.connections import UNAVAILABLE, Connection, close_pool, connect, create_pool, is_transient
from kraken_history.database.migrations import check_schema
from kraken_history.errors import HistoryError, InvalidNumber, ProviderClosed, ServiceUnavailable
from kraken_history.urls import without_password


class Database:
    """A pool of connections for reading; may be opened and closed any number of times.

    Args:
        url: ``postgresql://user:password@host:5432/name``; several hosts, comma between, are tried in turn, and
            ``?target_session_attrs=prefer-standby`` prefers a replica.
    """

    def __init__(self, url: str, pool_min_size: int, pool_max_size: int) -> None:
        _check_size("pool_max_size", pool_max_size, 1)
        _check_size("pool_min_size", pool_min_size, 0)
        self.url = url
        self._min_size = min(pool_min_size, pool_max_size)
        self._max_size = pool_max_size
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self._is_closed = asyncio.Event()
        self.newest_seen: dict[str, datetime] = {}  # by symbol: the newest candle that a read has shown

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
                self._is_closed = asyncio.Event()

    async def _create_pool(self) -> asyncpg.Pool:
        pool = await create_pool(self.url, min_size=self._min_size, max_size=self._max_size, for_reading=True)
        try:
            async with self._lent_by(pool) as connection:
                await check_schema(connection)
        except BaseException:
            await close_pool(pool)
            raise
        return pool

    async def close(self) -> None:
        """Disconnect, unless that is done; waits for one that is connecting.

        Reads that run may end within five seconds, which is also how long a network that went silent is waited for;
        the others raise ProviderClosed.
        """
        async with self._opening:
            pool, self._pool = self._pool, None
            if pool is not None:
                await close_pool(pool)
                self._is_closed.set()
                await asyncio.gather(*self._leaving, return_exceptions=True)

    async def closed(self) -> None:
        """Wait until it is closed, and what still ran has had its time."""
        await self._is_closed.wait()

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """All rows of a query.

        Raises:
            ProviderClosed: The pool is not open, or was closed meanwhile.
            ServiceUnavailable: The database is gone, or gave the statement up.
        """
        async with self.connection() as connection:
            return await connection.fetch(query, *arguments)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One connection, for several statements; errors as :meth:`fetch`.

        Whoever is cancelled leaves at once, whatever the network does.
        """
        async with self._lent_by(self.pool) as connection:
            yield connection

    @asynccontextmanager
    async def _lent_by(self, pool: asyncpg.Pool) -> AsyncIterator[Connection]:
        try:
            connection = await pool.acquire()
            try:
                if pool.is_closing():  # which ends what only now has its turn
                    raise ProviderClosed
                yield connection
            except asyncio.CancelledError:
                leaving = asyncio.create_task(_close(pool, connection))
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)
                raise
            except BaseException:
                await pool.release(connection)
                raise
            await pool.release(connection)
        except Exception as error:
            if isinstance(error, HistoryError) or not is_transient(error):
                raise
            if pool.is_closing():
                raise ProviderClosed from error
            raise self.unavailable(error) from error

    async def connect(self) -> asyncpg.Connection:
        """A connection of one's own, beside the pool; whoever asks for it closes it. Errors as :meth:`open`."""
        return await connect(self.url)

    def unavailable(self, error: BaseException) -> ServiceUnavailable:
        """Our error for a database that went away, or cannot finish a statement just now."""
        reason = str(error) or type(error).__name__
        what = "is gone" if isinstance(error, UNAVAILABLE) else "gave up"
        return ServiceUnavailable(f"the database at {without_password(self.url)} {what} ({reason}): try again")


async def _close(pool: asyncpg.Pool, connection: PoolConnectionProxy) -> None:
    """Take a connection whose statement was cancelled out of the pool.

    The server is asked to cancel the statement, but a network that went silent may keep that back without end. And
    it is not used again: a statement that was being prepared leaves the session inside a transaction.
    """
    with suppress(asyncpg.PostgresError, *UNAVAILABLE):
        await connection.close(timeout=_CANCEL_TIMEOUT_S)  # which ends it in any case
    await pool.release(connection)


_CANCEL_TIMEOUT_S = 5.0


def _check_size(name: str, size: int, least: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < least:
        raise InvalidNumber(name, size, f"a whole number of at least {least}")
