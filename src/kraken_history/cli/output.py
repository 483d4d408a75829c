"""Standard output and standard error, which may be closed, or lead to a full disk."""

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from kraken_history.errors import HistoryError

if TYPE_CHECKING:
    from typing_extensions import Buffer


class OutputError(HistoryError):
    """Standard output cannot be written."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cannot write to standard output: {reason}")


class _Output(io.FileIO):
    def write(self, data: "Buffer", /) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:  # the reader has seen enough, which is no error
            raise
        except OSError as error:
            reason = "it is closed" if error.errno == errno.EBADF else error.strerror or str(error)
            raise OutputError(reason) from error


class _Complaints(io.FileIO):
    def write(self, data: "Buffer", /) -> int:
        try:
            return super().write(data) or 0
        except OSError:  # nobody can be told
            return memoryview(data).nbytes


def prepare_streams() -> None:
    """Replace the streams of this process by ones that name their errors. A closed one is opened, so that it has one.

    Otherwise the next file or socket would get its number, and its output.
    """
    for number, mode in (
        (0, os.O_RDONLY),
        (1, os.O_RDONLY),
        (2, os.O_WRONLY),
    ):  # writing to 1 fails, as if it were closed
        if (sys.stdin, sys.stdout, sys.stderr)[number] is None:
            _open_nothing(number, mode)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 — open until the process ends
    sys.stdout = _replaced(sys.stdout, _Output(1, "w", closefd=False))
    sys.stderr = _replaced(sys.stderr, _Complaints(2, "w", closefd=False))


def discard_output() -> None:
    """Let buffered output that cannot be written go nowhere, since Python writes it when the process ends."""
    _open_nothing(sys.__stdout__.fileno() if sys.__stdout__ else 1, os.O_WRONLY)


def _replaced(stream: TextIO | None, raw: io.FileIO) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding if stream else "utf-8",
        errors=(stream.errors if stream else None) or "strict",
        line_buffering=raw.fileno() == 2 or raw.isatty(),
    )


def _open_nothing(number: int, mode: int) -> None:
    nothing = os.open(os.devnull, mode)
    if nothing != number:
        os.dup2(nothing, number)
        os.close(nothing)
    os.set_inheritable(number, True)
