"""Connections to PostgreSQL, and its driver's errors in our words."""

import logging

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from kraken_history.errors import HistoryError, ServiceUnavailable, UsageError

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

CONNECT_TIMEOUT_S = 10.0


def is_transient(error: BaseException) -> bool:
    """True if the same write may succeed later, so that nothing is wrong with the data."""
    return isinstance(error, (ServiceUnavailable, *UNAVAILABLE, *TRY_AGAIN)) and not isinstance(
        error, asyncpg.ConfigurationLimitExceededError
    )


async def connect(database_url: str) -> asyncpg.Connection:
    """Open one connection.

    Raises:
        UsageError: The URL is not one, or names a user, password or database that the server refuses.
        ServiceUnavailable: Nobody answers there.
    """
    try:
        return await asyncpg.connect(_checked(database_url), timeout=CONNECT_TIMEOUT_S)
    except Exception as error:
        raise connection_error(error, database_url) from error


async def create_pool(
    database_url: str,
    *,
    min_size: int,
    max_size: int,
    command_timeout_s: float | None = None,
    replans: bool = False,
) -> asyncpg.Pool:
    """Open a pool, with the errors of :func:`connect`.

    Args:
        command_timeout_s: After this long a statement raises TimeoutError, as on a network that went silent.
        replans: Plan each statement for its arguments, however often it is repeated. A plan for any arguments locks
            every partition of a table: 737 locks instead of 7 for a year of days.
    """
    logging.getLogger("asyncpg.pool").addFilter(_in_one_line)
    try:
        pool = await asyncpg.create_pool(
            _checked(database_url),
            min_size=min_size,
            max_size=max_size,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=command_timeout_s,
            init=_prepare_for_replanning if replans else _allow_decompression,
            reset=_leave_as_it_is,
        )
    except Exception as error:
        raise connection_error(error, database_url) from error
    return pool


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


async def _prepare_for_replanning(connection: Connection) -> None:
    await _allow_decompression(connection)
    await connection.execute("SET plan_cache_mode = force_custom_plan")


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
    if isinstance(error, UNAVAILABLE):
        reason = str(error) or type(error).__name__
        return ServiceUnavailable(f"no database answers at {place} ({reason}): start it, or correct DATABASE_URL")
    raise error


def without_password(url: str) -> str:
    """The URL from the host on, which is what a message may show."""
    return str(url).split("://", 1)[-1].rsplit("@", 1)[-1].split("?", 1)[0]
