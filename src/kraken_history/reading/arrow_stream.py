"""Statements whose rows are returned as Arrow: by ADBC, in a thread, with its errors translated into ours.

ADBC uses a binary COPY, which is fast, only for statements without parameters. Its knowledge of a server's types is
cached for as long as the :class:`Database` lives. Each statement opens its own connection, so no connection can go
stale or be shared.
"""

import asyncio
import importlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import asyncpg

from kraken_history.database.failures import is_transient
from kraken_history.database.urls import read_database_url
from kraken_history.errors import MissingExtra, ProviderClosed
from kraken_history.reading.database import Database

if TYPE_CHECKING:
    import adbc_driver_manager
    import pyarrow

    Convert = Callable[[pyarrow.RecordBatch], pyarrow.RecordBatch]

CANCEL_PATIENCE_S = 2.0
"""Longest time that a cancelled read waits for its connection to close, in seconds; later, the thread closes it."""

ARROW = ("pyarrow", "adbc_driver_manager", "adbc_driver_postgresql")
"""The packages of the extra ``arrow``."""


async def require_packages(extra: str, *names: str) -> None:
    """Import packages, in a thread because the first import takes long.

    Raises:
        MissingExtra: A package is not installed.
    """
    for name in names:
        try:
            await asyncio.to_thread(importlib.import_module, name)
        except ImportError as error:
            raise MissingExtra(name, extra) from error


async def fetch_batches(database: Database, statement: str, convert: "Convert") -> "list[pyarrow.RecordBatch]":
    """All rows of a statement without parameters; a batch is converted while the server sends the next one.

    If the caller is cancelled, the statement is cancelled on the server, and the connection is closed.

    Raises:
        ProviderClosed: The database is not open, or was closed meanwhile.
        ServiceUnavailable: The database is unavailable.
    """
    database.pool  # noqa: B018 — raises if it is not open
    fetch = _Fetch(database, statement, convert)
    loop = asyncio.get_running_loop()
    work = loop.run_in_executor(None, fetch.run)
    closing: asyncio.Future[None] = asyncio.create_task(database.closed())
    try:
        either: set[asyncio.Future[Any]] = {work, closing}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ProviderClosed
    except (asyncio.CancelledError, ProviderClosed):
        loop.run_in_executor(None, fetch.cancel)
        await asyncio.wait({work}, timeout=CANCEL_PATIENCE_S)
        raise
    finally:
        closing.cancel()
    return work.result()


class _Fetch:
    """One statement in its thread; another thread may cancel it."""

    def __init__(self, database: Database, statement: str, convert: "Convert") -> None:
        self._database = database
        self._statement = statement
        self._convert = convert
        self._lock = threading.Lock()
        self._running: adbc_driver_manager.AdbcStatement | None = None
        self._is_cancelled = False

    def run(self) -> "list[pyarrow.RecordBatch]":
        """All batches; none if it was cancelled."""
        import adbc_driver_manager

        try:
            return self._run()
        except (adbc_driver_manager.Error, OSError) as error:
            if self._is_cancelled:
                return []
            raise _translated(self._database, error) from error

    def _run(self) -> "list[pyarrow.RecordBatch]":
        import adbc_driver_manager
        import pyarrow

        with (
            adbc_driver_manager.AdbcConnection(_database_of(self._database)) as connection,
            adbc_driver_manager.AdbcStatement(connection) as statement,
        ):
            try:
                # In a transaction: the statement is prepared in one message and run in another, and a pooler may give
                # the second to another session.
                connection.set_autocommit(False)
                self._is_running(statement)
                statement.set_sql_query(self._statement)
                stream, _ = statement.execute_query()
                batches: list[pyarrow.RecordBatch] = []
                with pyarrow.RecordBatchReader.from_stream(stream) as reader:
                    for batch in reader:
                        if self._is_cancelled:
                            break
                        batches.append(self._convert(batch))
                if not self._is_cancelled:
                    connection.set_autocommit(True)  # ends the transaction
                return batches
            finally:
                self._is_running(None)

    def _is_running(self, statement: "adbc_driver_manager.AdbcStatement | None") -> None:
        with self._lock:
            self._running = statement

    def cancel(self) -> None:
        """Make the statement end soon."""
        import adbc_driver_manager

        self._is_cancelled = True
        with self._lock:
            if self._running is None:
                return
            try:
                self._running.cancel()
            except adbc_driver_manager.Error:
                return  # it has ended, or it is about to because the connection is lost


_databases: "WeakKeyDictionary[Database, adbc_driver_manager.AdbcDatabase]" = WeakKeyDictionary()


def _database_of(database: Database) -> "adbc_driver_manager.AdbcDatabase":
    """ADBC's cached knowledge of a server; holds no connection."""
    import adbc_driver_postgresql  # type: ignore[import-untyped]

    if database not in _databases:
        _databases.setdefault(database, adbc_driver_postgresql.connect(read_database_url(database.url).libpq_url()))
    return _databases[database]


def _translated(database: Database, error: Exception) -> Exception:
    """Our error, or else the one that asyncpg would raise. An OSError means that the stream broke off."""
    reason = str(error).removeprefix("IO: ").removeprefix("[libpq] ").split("\n", 1)[0]
    state: str | None = getattr(error, "sqlstate", None)
    if state is None:
        import adbc_driver_manager

        is_gone = isinstance(error, (OSError, adbc_driver_manager.OperationalError))
        return database.unavailable(ConnectionError(reason)) if is_gone else error
    driver_error: Exception = asyncpg.PostgresError.new({"C": state, "M": reason})
    return database.unavailable(driver_error) if is_transient(driver_error) else driver_error
