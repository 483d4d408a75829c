"""Connections to PostgreSQL, and the translation of its driver's errors into ours."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from kraken_history.errors import HistoryError, ServiceUnavailable, UsageError
from kraken_history.runtime.tasks import end
from kraken_history.urls import without_password

Connection = asyncpg.Connection | PoolConnectionProxy
"""A separate connection, or one acquired from a pool."""

# Errors of the driver if the server is down, restarting, out of connections or disappears during a statement.
UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # raised if the server's goodbye arrives while a statement is sent
)
# Errors after which the same transaction may succeed on a server that is up.
TRY_AGAIN = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientResourcesError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)

_MOST_TRIES = 4  # attempts at a transaction that deadlocks

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
LEAVE_S = 5.0  # part of the 20 s in which `up` lets a service stop; compose allows 30

SILENCE_S = 30
"""Seconds of silence after which a connection is closed, if :func:`_notice_silence` can arrange it.

The server's kernel sends acknowledgements during a longer statement, so none is cut while the network works.
"""


def is_transient(error: BaseException) -> bool:
    """True if the same write may succeed later, so that nothing is wrong with the data."""
    return isinstance(error, (ServiceUnavailable, *UNAVAILABLE, *TRY_AGAIN)) and not isinstance(
        error, asyncpg.ConfigurationLimitExceededError
    )


async def connect(database_url: str) -> asyncpg.Connection:
    """Open one connection, which closes if the network goes silent.

    Raises:
        UsageError: The URL is invalid, or the server refuses the user, password or database in it.
        ServiceUnavailable: No database answers at that address.
    """
    try:
        connection = await asyncpg.connect(_checked(database_url), timeout=CONNECT_TIMEOUT_S)
        _notice_silence(connection)
    except Exception as error:
        raise connection_error(error, database_url) from error
    return connection


async def create_pool(
    database_url: str,
    *,
    min_size: int,
    max_size: int,
    command_timeout_s: float | None = None,
    for_reading: bool = False,
) -> asyncpg.Pool:
    """Open a pool, with the errors of :func:`connect`.

    Args:
        command_timeout_s: Seconds after which a statement raises TimeoutError, for example on a silent network.
        for_reading: Plan each statement for its arguments, even if it is repeated: a generic plan locks every
            partition of a table, 737 locks instead of 7 for a year of days. Also close a connection whose network
            went silent. Not for writers: a COPY that waits for a lock looks the same as a silent network.
    """
    logger = logging.getLogger("asyncpg.pool")
    logger.addFilter(_in_one_line)
    logger.addHandler(_NOWHERE)
    try:
        pool = await asyncpg.create_pool(
            _checked(database_url),
            min_size=min_size,
            max_size=max_size,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=command_timeout_s,
            init=_prepare_for_reading if for_reading else _allow_decompression,
            reset=_leave_as_it_is,
        )
    except Exception as error:
        raise connection_error(error, database_url) from error
    return pool


async def close_pool(pool: asyncpg.Pool) -> None:
    """Close a pool. Statements still running after :data:`CLOSE_TIMEOUT_S`, or on a lost server, are terminated."""
    with suppress(asyncpg.PostgresError, *UNAVAILABLE):  # the driver terminates the pool then
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await pool.close()


@asynccontextmanager
async def leaving_in_time(
    pool: asyncpg.Pool, stop: asyncio.Event, *, within_s: float = LEAVE_S
) -> AsyncIterator[asyncpg.Pool]:
    """``async with pool``, but a database that does not answer cannot delay the end of the process.

    Connections in use ``within_s`` after ``stop`` are cut off, as if the server had gone down.
    """

    async def cut_off() -> None:
        await stop.wait()
        await asyncio.sleep(within_s)
        pool.terminate()

    cutting_off = asyncio.create_task(cut_off())
    try:
        yield pool
    finally:
        await close_pool(pool)
        await end(cutting_off)


_NOWHERE = logging.NullHandler()
"""Prevents Python from writing warnings to standard error in a program that has not configured logging."""


def _in_one_line(record: logging.LogRecord) -> bool:
    """Remove the traceback that the driver's pool logs each time the server is unavailable; one line is enough."""
    record.exc_info = record.exc_text = None
    return True


def _checked(database_url: str) -> str:
    """The URL, if it is one. The driver would complete anything else from environment variables."""
    if not isinstance(database_url, str) or not database_url.startswith(("postgresql://", "postgres://")):
        raise ValueError("it does not begin with postgresql://")
    return database_url


async def _allow_decompression(connection: Connection) -> None:
    """Lift TimescaleDB's limit of 100,000 decompressed rows per write.

    A download exceeds it, and so do REST trades over one. Without the extension the setting has no effect.
    """
    await connection.execute("SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0")


async def _prepare_for_reading(connection: Connection) -> None:
    _notice_silence(connection)
    await _allow_decompression(connection)
    await connection.execute("SET plan_cache_mode = force_custom_plan")


def _notice_silence(connection: Connection) -> None:
    """Let the kernel close a connection on which nothing arrives, not even an acknowledgement, for :data:`SILENCE_S`.

    Depends on the platform: some watch only a connection that waits for data, so one that is sending may take longer.
    The driver's transport is the only access to its socket; without it, silence is not noticed.
    """
    transport: asyncio.Transport | None = getattr(connection, "_transport", None)
    link: socket.socket | None = None if transport is None else transport.get_extra_info("socket")
    if link is None:
        return
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _SILENCE_OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:
            with suppress(OSError):  # the kernel does not support the option, or this is a Unix socket
                link.setsockopt(socket.IPPROTO_TCP, option, value)


_SILENCE_OPTIONS = {
    "TCP_KEEPIDLE": SILENCE_S // 2,
    "TCP_KEEPALIVE": SILENCE_S // 2,  # the same, on macOS
    "TCP_KEEPINTVL": SILENCE_S // 6,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 1_000 * SILENCE_S,  # Linux only: also covers sent data without an acknowledgement
}


async def _leave_as_it_is(_: Connection) -> None:
    """Skip the driver's reset, which costs a round trip: all code here undoes its own session settings and locks."""


def connection_error(error: Exception, database_url: str) -> HistoryError:
    """Our error for a driver's error on connecting; never contains the password.

    Raises:
        Exception: The error itself, if it is not one of the known kinds. That is a bug.
    """
    place = without_password(database_url)
    if isinstance(error, PermissionError) and error.filename:  # of a socket's file the driver gives no name
        return UsageError(
            f"no permission to read {error.filename}, where the TLS keys of this account's databases would be:"
            " set HOME to the home of this account (sudo -H), or add sslmode=disable to DATABASE_URL"
        )
    if "getpwuid" in str(error) or "No username set" in str(error):  # KeyError, from Python 3.13 on OSError
        return UsageError(f"this account has no name, and DATABASE_URL ({place}) has no user: add the user to it")
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return UsageError(f"{place}: {error}: create the database, or correct DATABASE_URL")
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return UsageError(f"{place}: {error}: correct user and password in DATABASE_URL")
    if isinstance(error, (ValueError, OverflowError, asyncpg.ClientConfigurationError)):
        return UsageError(f"expected DATABASE_URL like postgresql://user:password@host:5432/name ({error})")
    if is_transient(error):
        reason = str(error) or type(error).__name__
        return ServiceUnavailable(f"no database answers at {place} ({reason}): start it, or correct DATABASE_URL")
    raise error


async def write_again(write: Callable[[], Awaitable[T]]) -> T:
    """Run a write, and repeat it if it lost a deadlock or a serialization conflict; the failed attempt stored nothing.

    On TimescaleDB two writers that create chunks may deadlock, even for different symbols.
    """
    for _ in range(_MOST_TRIES - 1):
        with suppress(asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
            return await write()
    return await write()
