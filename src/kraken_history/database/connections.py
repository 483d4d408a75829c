"""Connections to PostgreSQL, and its driver's errors in our words."""

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
"""A connection of one's own, or one lent by a pool."""

# What the driver raises when the server is down, restarting, out of connections or gone in mid-statement.
UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # how the driver takes a server's farewell that crosses a statement
)
# What passes when the same transaction is tried again on a server that is up.
TRY_AGAIN = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientResourcesError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)

_MOST_TRIES = 4  # of a transaction that deadlocks

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
LEAVE_S = 5.0  # of the 20 s that `up` gives a service to stop in; compose gives 30

SILENCE_S = 30
"""After this long a network that carries nothing any more counts as gone, where :func:`_notice_silence` can see to it.

The server's kernel answers for a statement that takes longer, so none is cut on a network that is well.
"""


def is_transient(error: BaseException) -> bool:
    """True if the same write may succeed later, so that nothing is wrong with the data."""
    return isinstance(error, (ServiceUnavailable, *UNAVAILABLE, *TRY_AGAIN)) and not isinstance(
        error, asyncpg.ConfigurationLimitExceededError
    )


async def connect(database_url: str) -> asyncpg.Connection:
    """Open one connection, which ends on a network that went silent.

    Raises:
        UsageError: The URL is not one, or names a user, password or database that the server refuses.
        ServiceUnavailable: Nobody answers there.
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
        command_timeout_s: After this long a statement raises TimeoutError, as on a network that went silent.
        for_reading: Plan each statement for its arguments, however often it is repeated: a plan for any arguments
            locks every partition of a table, 737 locks instead of 7 for a year of days. And end a connection whose
            network went silent. Not for writers: a COPY that waits for a lock is not distinguishable from that.
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
    """Close a pool; what still runs after :data:`CLOSE_TIMEOUT_S`, or on a server that is gone, is ended."""
    with suppress(asyncpg.PostgresError, *UNAVAILABLE):  # it is terminated then
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await pool.close()


@asynccontextmanager
async def leaving_in_time(
    pool: asyncpg.Pool, stop: asyncio.Event, *, within_s: float = LEAVE_S
) -> AsyncIterator[asyncpg.Pool]:
    """``async with pool``, but a database that does not answer keeps nobody.

    What still goes on ``within_s`` after ``stop`` is cut off, as by a server that goes down.
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
"""Without any handler, as in a program that has not configured logging, Python writes warnings to standard error."""


def _in_one_line(record: logging.LogRecord) -> bool:
    """Of a server that is away the driver's pool says so with a traceback each time; one line is enough."""
    record.exc_info = record.exc_text = None
    return True


def _checked(database_url: str) -> str:
    """The URL; anything else, the driver would fill up from the environment."""
    if not isinstance(database_url, str) or not database_url.startswith(("postgresql://", "postgres://")):
        raise ValueError("it has no postgresql:// at its beginning")
    return database_url


async def _allow_decompression(connection: Connection) -> None:
    """TimescaleDB refuses writes that decompress more than 100,000 rows: a download, or REST trades over one, do.

    Without the extension this is a setting that nobody reads.
    """
    await connection.execute("SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0")


async def _prepare_for_reading(connection: Connection) -> None:
    _notice_silence(connection)
    await _allow_decompression(connection)
    await connection.execute("SET plan_cache_mode = force_custom_plan")


def _notice_silence(connection: Connection) -> None:
    """Have the kernel end a connection over which nothing comes, not even an acknowledgement, for :data:`SILENCE_S`.

    As far as the platform can: where only a read that waits is looked after, one that is being sent may take longer.
    The driver has no other way to its socket than its own transport; without that, silence goes unnoticed.
    """
    transport: asyncio.Transport | None = getattr(connection, "_transport", None)
    link: socket.socket | None = None if transport is None else transport.get_extra_info("socket")
    if link is None:
        return
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _SILENCE_OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:
            with suppress(OSError):  # this kernel does not know it, or it is a Unix socket
                link.setsockopt(socket.IPPROTO_TCP, option, value)


_SILENCE_OPTIONS = {
    "TCP_KEEPIDLE": SILENCE_S // 2,
    "TCP_KEEPALIVE": SILENCE_S // 2,  # the same, on macOS
    "TCP_KEEPINTVL": SILENCE_S // 6,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 1_000 * SILENCE_S,  # Linux only: also for what was sent and is not acknowledged
}


async def _leave_as_it_is(_: Connection) -> None:
    """Whoever sets anything in a session, or locks it, undoes that: so the round trip that clears it is saved."""


def connection_error(error: Exception, database_url: str) -> HistoryError:
    """Our error for a driver's error on connecting; never holds the password.

    Raises:
        Exception: The error itself, if it is neither of the two: that is a bug.
    """
    place = without_password(database_url)
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return UsageError(f"{place}: {error}: create it, or correct DATABASE_URL")
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return UsageError(f"{place}: {error}: correct user and password in DATABASE_URL")
    if isinstance(error, (ValueError, OverflowError, asyncpg.ClientConfigurationError)):
        return UsageError(f"DATABASE_URL is not like postgresql://user:password@host:5432/name ({error})")
    if is_transient(error):
        reason = str(error) or type(error).__name__
        return ServiceUnavailable(f"no database answers at {place} ({reason}): start it, or correct DATABASE_URL")
    raise error


async def write_again(write: Callable[[], Awaitable[T]]) -> T:
    """Write, and once more where another transaction was in the way and won: nothing of it was stored then.

    On TimescaleDB two writers that make chunks may deadlock, whatever their symbols.
    """
    for _ in range(_MOST_TRIES - 1):
        with suppress(asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
            return await write()
    return await write()
