"""Connections to PostgreSQL, and the translation of its driver's errors into ours."""

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from kraken_history.database.failures import UNAVAILABLE, is_transient
from kraken_history.database.lost_clients import settings_of_a_writer
from kraken_history.database.poolers import (
    NO_DECOMPRESSION_LIMIT,
    PooledConnection,
    PooledWriter,
    open_probed,
    owner_of,
)
from kraken_history.database.statements import Sessions, WritersConnection
from kraken_history.database.urls import EXAMPLE, SILENCE_S, DatabaseUrl, read_database_url
from kraken_history.errors import HistoryError, ServiceUnavailable, UsageError
from kraken_history.runtime.tasks import end
from kraken_history.urls import without_password

Connection = asyncpg.Connection | PoolConnectionProxy
"""A separate connection, or one acquired from a pool."""

_MOST_TRIES = 4  # attempts at a transaction that deadlocks

T = TypeVar("T")

CLOSE_TIMEOUT_S = 5.0
LEAVE_S = 5.0  # part of the 20 s in which `up` lets a service stop; compose allows 30


async def connect(database_url: str, *, for_writing: bool = False) -> asyncpg.Connection:
    """Open one connection, which closes if the network goes silent.

    Args:
        for_writing: Choose a server that takes writes, if the URL has several hosts.

    Raises:
        UsageError: The URL is invalid, or the server refuses the user, password or database in it.
        ServiceUnavailable: No database answers at that address.
    """
    try:
        url = read_database_url(database_url)
        arguments = url.writers_arguments() if for_writing else url.asyncpg_arguments()
        connection = await open_probed(arguments, url.is_pooled)
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
    sessions: Sessions | None = None,
) -> asyncpg.Pool:
    """Open a pool, with the errors of :func:`connect`.

    Args:
        command_timeout_s: Seconds after which a statement raises TimeoutError, for example on a silent network.
        for_reading: Plan each statement for its arguments, even if it is repeated: a generic plan locks every
            partition of a table, 737 locks instead of 7 for a year of days. Also close a connection whose network
            went silent for :data:`SILENCE_S`; a writer waits twice as long, because a COPY that waits for a lock looks
            the same as a silent network. If the URL has several hosts, a writer chooses one that takes writes. Its
            sessions end themselves on the server (:mod:`~kraken_history.database.lost_clients`).
        sessions: A writer's pool and its connections are added to it, unless a pooler answers: there, sessions are not
            ours.
    """
    logger = logging.getLogger("asyncpg.pool")
    logger.addFilter(_in_one_line)
    logger.addHandler(_NOWHERE)
    try:
        url = read_database_url(database_url)
        arguments = url.asyncpg_arguments() if for_reading else url.writers_arguments()
        is_pooled = await _is_pooled(arguments, url.is_pooled)
        pool = await asyncpg.create_pool(
            **arguments,
            min_size=min_size,
            max_size=max_size,
            command_timeout=command_timeout_s,
            reset=_leave_as_it_is,
            **(_behind_a_pooler(arguments, for_reading) if is_pooled else _direct(url, for_reading, sessions)),
        )
    except Exception as error:
        raise connection_error(error, database_url) from error
    if sessions is not None and not is_pooled:
        sessions.pools.append(pool)
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


async def _is_pooled(arguments: dict[str, Any], given: bool | None) -> bool:
    """Whether a pooler answers. If the URL does not say, one connection is opened to find out."""
    if given is not None:
        return given
    connection = await open_probed(arguments, None)
    await connection.close(timeout=CLOSE_TIMEOUT_S)
    return connection.is_pooled


def _direct(url: DatabaseUrl, for_reading: bool, sessions: Sessions | None) -> dict[str, Any]:
    if for_reading:
        return {"init": _prepare_for_reading}
    settings = settings_of_a_writer(url.settings)

    async def prepare_for_writing(connection: PoolConnectionProxy) -> None:
        if sessions is not None:
            sessions.connections.add(owner_of(connection))
        _notice_silence(connection, within_s=_WRITERS_SILENCE_S)
        await connection.execute(settings)

    return {"init": prepare_for_writing, "connection_class": WritersConnection}


def _behind_a_pooler(arguments: dict[str, Any], for_reading: bool) -> dict[str, Any]:
    async def prepare(connection: PoolConnectionProxy) -> None:
        owner_of(connection).database = arguments
        _notice_silence(connection, within_s=SILENCE_S if for_reading else _WRITERS_SILENCE_S)

    kind = PooledConnection if for_reading else PooledWriter
    return {"init": prepare, "connection_class": kind, "statement_cache_size": 0}


async def _prepare_for_reading(connection: Connection) -> None:
    _notice_silence(connection)
    await connection.execute(f"SET {NO_DECOMPRESSION_LIMIT}")
    await connection.execute("SET plan_cache_mode = force_custom_plan")


_WRITERS_SILENCE_S = 2 * SILENCE_S


def _notice_silence(connection: Connection, *, within_s: int = SILENCE_S) -> None:
    """Let the kernel close a connection on which nothing arrives, not even an acknowledgement, for ``within_s``.

    Depends on the platform: some watch only a connection that waits for data, so one that is sending may take longer.
    The driver's transport is the only access to its socket; without it, silence is not noticed.
    """
    transport: asyncio.Transport | None = getattr(connection, "_transport", None)
    link: socket.socket | None = None if transport is None else transport.get_extra_info("socket")
    if link is None:
        return
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _silence_options(within_s).items():
        if (option := getattr(socket, name, None)) is not None:
            with suppress(OSError):  # the kernel does not support the option, or this is a Unix socket
                link.setsockopt(socket.IPPROTO_TCP, option, value)


def _silence_options(within_s: int) -> dict[str, int]:
    return {
        "TCP_KEEPIDLE": within_s // 2,
        "TCP_KEEPALIVE": within_s // 2,  # the same, on macOS
        "TCP_KEEPINTVL": within_s // 6,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 1_000 * within_s,  # Linux only: also covers sent data without an acknowledgement
    }


async def _leave_as_it_is(_: Connection) -> None:
    """Skip the driver's reset, which costs a round trip: all code here undoes its own session settings and locks."""


def connection_error(error: Exception, database_url: str) -> HistoryError:
    """Our error for a driver's error on connecting; never contains the password.

    Raises:
        Exception: The error itself, if it is not one of the known kinds. That is a bug.
    """
    place = without_password(database_url)
    reason = " ".join((str(error) or type(error).__name__).split())
    known = _account_error(error, place) or _pooler_error(reason, place) or _tls_error(error, reason, place)
    if known is not None:
        return known
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return UsageError(f"{place}: {reason}: create the database, or correct DATABASE_URL")
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return UsageError(f"{place}: {reason}: correct user and password in DATABASE_URL")
    if isinstance(error, asyncpg.UndefinedFileError) and "timescaledb" in reason:
        remedy = "run `ALTER EXTENSION timescaledb UPDATE` there, as the first statement of a session of its owner"
        return UsageError(f"{place}: the server's TimescaleDB is another version than this database's: {remedy}")
    if isinstance(error, _REFUSED) or _PGBOUNCER_REFUSES.search(reason):
        return UsageError(f"{place}: {reason}: correct user, password, database or arguments in DATABASE_URL")
    if isinstance(error, (ValueError, OverflowError, asyncpg.ClientConfigurationError)):
        return UsageError(f"expected DATABASE_URL like {EXAMPLE} ({reason})")
    if is_transient(error):
        return _unavailable(error, reason, place)
    raise error


def _unavailable(error: Exception, reason: str, place: str) -> ServiceUnavailable:
    if isinstance(error, asyncpg.TooManyConnectionsError):
        remedy = "wait until others end, or raise the limit of the server or the user"
        return ServiceUnavailable(f"the database at {place} has no free connection ({reason}): {remedy}")
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        remedy = "promote one of them, or correct DATABASE_URL"
        return ServiceUnavailable(f"no database that fits answers at {place} ({reason}): {remedy}")
    return ServiceUnavailable(f"no database answers at {place} ({reason}): start it, or correct DATABASE_URL")


def _tls_error(error: Exception, reason: str, place: str) -> UsageError | None:
    """Our error if the server offers no TLS, or its certificate is not trusted."""
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = "correct sslrootcert in DATABASE_URL, or the host"
        return UsageError(f"the certificate of the database at {place} is not trusted ({reason}): {remedy}")
    if "rejected SSL upgrade" in reason:
        remedy = "turn TLS on there, or use sslmode=prefer in DATABASE_URL"
        return UsageError(f"the database at {place} offers no TLS: {remedy}")
    return None


def _account_error(error: Exception, place: str) -> UsageError | None:
    """Our error if the account of this process has no name, or may not read the files of its HOME."""
    if isinstance(error, PermissionError) and error.filename:  # of a socket's file the driver gives no name
        return UsageError(
            f"no permission to read {error.filename}, where the TLS keys of this account's databases would be:"
            " set HOME to the home of this account (sudo -H), or add sslmode=disable to DATABASE_URL"
        )
    if "getpwuid" in str(error) or "No username set" in str(error):  # KeyError, from Python 3.13 on OSError
        return UsageError(f"this account has no name, and DATABASE_URL ({place}) has no user: add the user to it")
    return None


def _pooler_error(reason: str, place: str) -> UsageError | None:
    if "statement pooling mode" not in reason:
        return None
    return UsageError(f"{place}: {reason}: expected PgBouncer's pool_mode = transaction or session")


# The server does not know a setting in the URL, or not this value of it, or does not allow it to this user.
_REFUSED = (
    asyncpg.UndefinedObjectError,
    asyncpg.CantChangeRuntimeParamError,
    asyncpg.InvalidParameterValueError,
    asyncpg.InsufficientPrivilegeError,
)
# PgBouncer has one error code for all its complaints.
_PGBOUNCER_REFUSES = re.compile(
    "unsupported startup parameter|no such (user|database)|authentication failed|auth failed|login failed"
)


async def write_again(write: Callable[[], Awaitable[T]]) -> T:
    """Run a write, and repeat it if it lost a deadlock or a serialization conflict; the failed attempt stored nothing.

    On TimescaleDB two writers that create chunks may deadlock, even for different symbols.
    """
    for _ in range(_MOST_TRIES - 1):
        with suppress(asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
            return await write()
    return await write()
