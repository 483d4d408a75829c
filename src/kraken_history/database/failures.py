"""What an error of the database or its driver means for the write that met it."""

import asyncpg

from kraken_history.errors import ServiceUnavailable

UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # raised if the server's goodbye arrives while a statement is sent
)
"""The server is down, restarting or out of connections, or disappears during a statement."""

TRY_AGAIN = (
    asyncpg.TransactionRollbackError,  # deadlocks and serialization conflicts
    asyncpg.OperatorInterventionError,  # cancelled statements
    asyncpg.LockNotAvailableError,
    asyncpg.ObjectInUseError,
    asyncpg.SnapshotTooOldError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    asyncpg.InvalidCachedStatementError,  # a migration changed a table under a prepared statement
    asyncpg.ReadOnlySQLTransactionError,  # a standby, or a primary that takes no writes for now
    asyncpg.InsufficientResourcesError,  # disk, memory, locks
    asyncpg.ProgramLimitExceededError,
    asyncpg.PostgresIOError,
    asyncpg.InternalServerError,  # the server itself failed, whatever was written
)
"""The same transaction may succeed later, on this server or on the one that takes its place."""

MAY_BE_THE_BATCH = (asyncpg.OutOfMemoryError, asyncpg.ProgramLimitExceededError, asyncpg.InternalServerError)
"""Errors of the server that a transaction may cause by its size or its rows, or others by what they use.

PostgreSQL reports a full table of locks as ``out of shared memory``.
"""

DATA_ERRORS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    ValueError,
    OverflowError,
)
"""The database will never accept these data."""

_NEVER = (
    asyncpg.ConfigurationLimitExceededError,  # for example TimescaleDB's limit of decompressed rows
    asyncpg.TransactionIntegrityConstraintViolationError,
    ValueError,  # a value that the driver cannot encode, although its error is an InterfaceError too
)


def is_transient(error: BaseException) -> bool:
    """True if the same write may succeed later, so that nothing is wrong with the data."""
    return isinstance(error, (ServiceUnavailable, *UNAVAILABLE, *TRY_AGAIN)) and not isinstance(error, _NEVER)
