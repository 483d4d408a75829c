"""File locks, which the kernel releases when their holder ends, even if it was killed."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kraken_history.errors import ServiceUnavailable

POLL_S = 0.01


class FileLock:
    """An open lock file. Closing it releases the lock.

    Two objects on one path exclude each other, even within one process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire(self, *, shared: bool = False) -> bool:
        """Take the lock, or change between shared and exclusive, without waiting. False if another holder prevents it.

        A failed change from shared to exclusive may lose the shared lock.
        """
        import fcntl  # POSIX only: on other systems ``find_binaries`` raises a clear error first

        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def write(self, text: str) -> None:
        """Replace the file's content, by which the holder identifies itself."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def read(self) -> str:
        """The content that the holder wrote."""
        return os.pread(self._descriptor, 100, 0).decode()

    def close(self) -> None:
        """Release and close."""
        os.close(self._descriptor)


@contextmanager
def opened(path: Path) -> Iterator[FileLock]:
    """An open lock file, not locked yet; closed at the end."""
    lock = FileLock(path)
    try:
        yield lock
    finally:
        lock.close()


@contextmanager
def exclusive(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold ``path`` exclusively.

    Raises:
        ServiceUnavailable: Others held it for all of ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    with opened(path) as lock:
        while not lock.acquire():
            if time.monotonic() > deadline:
                raise ServiceUnavailable(
                    f"other commands have been starting or stopping servers for {timeout_s:.0f} s ({path}): try again"
                )
            time.sleep(POLL_S)
        yield
