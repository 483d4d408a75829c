"""Expected failures, each reported as one line on standard error and an exit code."""

import errno
import os
import sys

import asyncpg
from redis.exceptions import RedisError

from kraken_history.database.failures import UNAVAILABLE
from kraken_history.errors import CoverageError, HistoryError, UnknownInterval, UsageError
from kraken_history.runtime.processes import EXIT_FAILED, EXIT_USAGE
from kraken_history.runtime.redis_connections import refuses_for_now

EXPECTED = (HistoryError, asyncpg.PostgresError, RedisError, *UNAVAILABLE)
"""Failures reported without a traceback. Every other exception is a bug and keeps its traceback."""


def complain(error: Exception) -> int:
    """Write the line for one of :data:`EXPECTED`; return the exit code."""
    match error:
        case CoverageError():
            message = error.message("add --gaps ignore")
        case UnknownInterval():
            message = f"--{error}"  # named as the option, like the other options
        case HistoryError():
            message = str(error)
        case asyncpg.ReadOnlySQLTransactionError():
            message = (
                f"expected a database that takes writes, got a standby, or one that is read-only ({error}):"
                " give DATABASE_URL the primary, or all hosts, separated by commas"
            )
        case asyncpg.PostgresError():
            message = f"the database reported an error: {error}"
        case RedisError() if refuses_for_now(error):
            message = f"Redis takes no writes at the moment: {error}. Free memory or disk there, then try again"
        case RedisError():
            message = f"Redis reported an error: {error}"
        case OSError(filename=str() | bytes() | os.PathLike() as file, strerror=reason):
            message = f"cannot use {os.fsdecode(file)}: {reason}"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EROFS | errno.EIO, strerror=reason):
            message = f"cannot write a file: {reason}"
        case _:
            message = f"a server could not be reached: {str(error) or type(error).__name__}. Try again later"
    sys.stderr.write(f"kraken-history: {' '.join(message.split())}\n")
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
