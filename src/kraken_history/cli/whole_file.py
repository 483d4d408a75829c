"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kraken_history.errors import HistoryError, UsageError


def check_target(path: Path, *, replaces: bool) -> Path:
    """Pass if a file can be written there; return where it is really, behind symbolic links.

    Raises:
        UsageError: There is no such folder, or something is there that must stay.
    """
    path = path.resolve()
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}: make it, or name another")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file: name one")
    if path.exists() and not replaces:
        raise UsageError(f"{path} is there already: write elsewhere with --output, or replace it with --force")
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name when it is complete, and is removed where it does not get so far.

    Raises:
        HistoryError: It cannot be written.
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
        raise HistoryError(f"{path} cannot be written: {error.strerror or error}") from error
