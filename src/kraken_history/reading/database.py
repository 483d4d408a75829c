"""The connections of a reader, and the translation of their errors into ours."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from kraken_history.database.connections import Connection, close_pool, connect, create_pool
from kraken_history.database.failures import UNAVAILABLE, is_transient
from kraken_history.database.migrations import check_schema
from kraken_history.errors import HistoryError, InvalidNumber, ProviderClosed, ServiceUnavailable
from kraken_history.urls import without_password


class Database:
    """A pool of connections for reading; it can be opened and closed any number of times.

    Args:
        url: ``postgresql://user:password@host:5432/name``. Several hosts, separated by commas, are tried in turn;
            ``?target_session_attrs=prefer-standby`` prefers a replica.
        archive: Place of an archive of this database, for reads of columns; None to read the database only.
    """

    def __init__(self, url: str, pool_min_size: int, pool_max_size: int, archive: str | None = None) -> None:
        _check_size("pool_max_size", pool_max_size, 1)
        _check_size("pool_min_size", pool_min_size, 0)
        self.url = url
        self.archive = archive
        self._min_size = min(pool_min_size, pool_max_size)
        self._max_size = pool_max_size
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self._is_closed = asyncio.Event()
        self.newest_seen: dict[str, datetime] = {}  # per symbol: the newest candle that a read has returned

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
        """Connect, if not yet connected.

        Raises:
            UsageError: The URL is not valid, or the server refuses its user, password or database.
            ServiceUnavailable: No database answers at the URL.
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
        """Disconnect, if connected; if :meth:`open` is running, wait for it first.

        Running reads have five seconds to end; then they raise ProviderClosed. A silent network is also waited for no
        longer than that.
        """
        async with self._opening:
            pool, self._pool = self._pool, None
            if pool is not None:
                await close_pool(pool)
                self._is_closed.set()
                await asyncio.gather(*self._leaving, return_exceptions=True)

    async def closed(self) -> None:
        """Wait until :meth:`close` has closed the pool, and running reads have had their time to end."""
        await self._is_closed.wait()

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """All rows of a query.

        Raises:
            ProviderClosed: The pool is not open, or was closed meanwhile.
            ServiceUnavailable: The database is unavailable, or did not complete the statement.
        """
        async with self.connection() as connection:
            return await connection.fetch(query, *arguments)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One connection, for several statements; raises the errors of :meth:`fetch`.

        If the caller is cancelled, it leaves at once, even if the network is silent.
        """
        async with self._lent_by(self.pool) as connection:
            yield connection

    @asynccontextmanager
    async def _lent_by(self, pool: asyncpg.Pool) -> AsyncIterator[Connection]:
        try:
            connection = await self._acquire(pool)
            try:
                if pool.is_closing():  # a read that waited for its connection until now must end too
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

    async def _acquire(self, pool: asyncpg.Pool) -> PoolConnectionProxy:
        """A connection of the pool. A server that refuses what it accepted before is unavailable."""
        try:
            return await pool.acquire()
        except _REFUSES as error:
            raise self.unavailable(error) from error

    async def connect(self) -> asyncpg.Connection:
        """A connection outside the pool, which the caller must close. Raises the errors of :meth:`open`."""
        return await connect(self.url)

    def unavailable(self, error: BaseException) -> ServiceUnavailable:
        """Our error for a database that is unavailable, or did not complete a statement."""
        reason = str(error) or type(error).__name__
        state = "is unavailable" if isinstance(error, (*UNAVAILABLE, *_REFUSES)) else "did not complete the statement"
        return ServiceUnavailable(f"the database at {without_password(self.url)} {state} ({reason}): try again")


# The database was dropped or renamed, or the user lost its password or its right to connect.
_REFUSES = (asyncpg.InvalidCatalogNameError, asyncpg.InvalidAuthorizationSpecificationError)


async def _close(pool: asyncpg.Pool, connection: PoolConnectionProxy) -> None:
    """Take a connection whose statement was cancelled out of the pool.

    Closing requests the server to cancel the statement. A silent network may delay this request for ever, hence the
    timeout. The connection is not reused: a statement that was being prepared leaves the session inside a transaction.
    """
    with suppress(asyncpg.PostgresError, *UNAVAILABLE):
        await connection.close(timeout=_CANCEL_TIMEOUT_S)  # closes it even if the timeout passes
    await pool.release(connection)


_CANCEL_TIMEOUT_S = 5.0  # longest wait for the server to close a cancelled connection


def _check_size(name: str, size: int, least: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < least:
        raise InvalidNumber(name, size, f"a whole number of at least {least}")
