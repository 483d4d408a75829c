"""Connections through PgBouncer and other poolers, which may give each transaction another session.

A pooler in transaction mode breaks everything that outlives a transaction: prepared statements, settings, locks of the
session and LISTEN. Behind a pooler, therefore, every statement runs inside a transaction, nothing is prepared ahead,
settings are local to their transaction, locks are held by a transaction of a connection beside (``locks``), and
followers poll.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from asyncpg.transaction import Transaction

from kraken_history.database.statements import WritersConnection

NO_DECOMPRESSION_LIMIT = "timescaledb.max_tuples_decompressed_per_dml_transaction = 0"
"""The setting that lifts TimescaleDB's limit of 100,000 decompressed rows per write.

A download exceeds it, and so do REST trades over one. Without the extension the setting has no effect.
"""


LONGEST_IDLE_S = 10
"""Seconds that a writer may leave a transaction open without a statement. No writer does; all compute beforehand."""


def limit_idle(*, is_local: bool) -> str:
    """A query that limits how long a session may leave a transaction open, unless the user or the database sets it."""
    return f"""
        SELECT set_config('idle_in_transaction_session_timeout', '{LONGEST_IDLE_S}s', {is_local})
        WHERE current_setting('idle_in_transaction_session_timeout') = '0'
    """


class PooledConnection(asyncpg.Connection):
    """A connection whose statements each run inside a transaction.

    asyncpg prepares a statement in one message and runs it in another. Outside a transaction, a pooler may give the
    second message to a session that has never seen the statement.

    Attributes:
        is_pooled: False if the server itself answers, so that statements run as they are.
        database: Arguments with which this connection was opened.
    """

    is_pooled = True
    database: dict[str, Any]

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """As asyncpg's. A query without arguments is one message, and runs as it is."""
        if not args:
            return await super().execute(query, **options)
        async with self._inside():
            return await super().execute(query, *args, **options)

    async def executemany(self, command: str, args: Any, **options: Any) -> None:
        """As asyncpg's."""
        async with self._inside():
            await super().executemany(command, args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        async with self._inside():
            return await super().fetch(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        async with self._inside():
            return await super().fetchval(query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        async with self._inside():
            return await super().fetchrow(query, *args, **options)

    async def copy_records_to_table(self, table_name: str, **options: Any) -> str:
        """As asyncpg's, which looks up the columns' types first."""
        async with self._inside():
            return await super().copy_records_to_table(table_name, **options)

    @asynccontextmanager
    async def _inside(self) -> AsyncIterator[None]:
        if not self.is_pooled or self.is_in_transaction():
            yield
        else:
            async with self.transaction():
                yield


class PooledWriter(PooledConnection, WritersConnection):
    """A pooled connection that may write to compressed chunks."""

    def transaction(self, **options: Any) -> Transaction:
        """As asyncpg's, with the settings of a writer."""
        arguments = {"isolation": None, "readonly": False, "deferrable": False} | options
        return _WritersTransaction(self, **arguments)


class _WritersTransaction(Transaction):
    def __init__(self, connection: PooledConnection, **options: Any) -> None:
        super().__init__(connection, **options)
        self._writer = connection

    async def start(self) -> None:
        is_outermost = not self._writer.is_in_transaction()
        await super().start()
        if is_outermost:
            await self._writer.execute(f"SET LOCAL {NO_DECOMPRESSION_LIMIT}; {limit_idle(is_local=True)}")


async def open_probed(arguments: dict[str, Any], is_pooled: bool | None) -> PooledConnection:
    """Open a connection that nothing is prepared on, and find out whether a pooler answers.

    PostgreSQL introduces itself with the number of the process that serves the session. A pooler cannot, because it
    does not know yet which one will.

    Args:
        is_pooled: The answer, if the URL gives it.
    """
    connection = await asyncpg.connect(**arguments, statement_cache_size=0, connection_class=PooledConnection)
    try:
        connection.database = arguments
        if is_pooled is None:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            is_pooled = pid != connection.get_server_pid()
        connection.is_pooled = is_pooled
    except BaseException:
        connection.terminate()
        raise
    return connection


def is_pooled(connection: object) -> bool:
    """True if a connection, or the one that a pool lends, leads to a pooler."""
    return bool(getattr(owner_of(connection), "is_pooled", False))


def owner_of(connection: object) -> Any:
    """The connection itself, also of the proxy that asyncpg's pool lends. ``isinstance`` cannot tell them apart."""
    return getattr(connection, "_con", connection)
