"""Where data directories are, and failures to use one."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kraken_history.errors import UsageError


def default_data_dir() -> Path:
    """The default data directory of this user account.

    Raises:
        UsageError: The account has no home directory.
    """
    from platformdirs import user_data_path  # not for a command whose servers are named

    return _in_home(lambda: user_data_path("kraken-history").expanduser())


def absolute(data_dir: Path) -> Path:
    """The same folder as an absolute path; raises as :func:`default_data_dir` if it begins with ``~``."""
    return _in_home(lambda: data_dir.expanduser().resolve())


def _in_home(find: Callable[[], Path]) -> Path:
    try:
        return find()
    except RuntimeError as error:  # HOME is not set, and the account has no entry in /etc/passwd
        raise UsageError(
            f"user {os.geteuid()} has no home directory: set KRAKEN_HISTORY_DATA_DIR to an absolute path, or set HOME"
        ) from error


@contextmanager
def os_errors_as_usage_errors(data_dir: Path) -> Iterator[None]:
    """Report a failed access to files as one of the data directory, with the remedy."""
    try:
        yield
    except OSError as error:
        may_not_write = isinstance(error, PermissionError) or error.errno == errno.EROFS
        remedy = ": set KRAKEN_HISTORY_DATA_DIR to a folder of your own" if may_not_write else ""
        raise UsageError(
            f"cannot use the data directory {data_dir}: {error.strerror} ({error.filename or data_dir}){remedy}"
        ) from error
