"""Files that appear only when they are complete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kraken_history.errors import HistoryError, UsageError


def check_target(path: Path, *, replaces: bool) -> Path:
    """Check that a file may be written at ``path``; return the path with symbolic links resolved.

    Raises:
        UsageError: The folder does not exist, or the path exists and must not be replaced.
    """
    path = path.resolve()
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}: create it, or name another")
    if path.exists() and not path.is_file():
        raise UsageError(f"expected the path of a file, got {path}, which is not a regular file")
    if path.exists() and not replaces:
        raise UsageError(f"{path} exists already: choose another file with --output, or replace it with --force")
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write. It gets its name when it is complete; if writing fails, it is removed.

    Raises:
        HistoryError: Writing failed.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise HistoryError(f"cannot write {path}: {error.strerror or error}") from error
