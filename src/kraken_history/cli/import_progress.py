"""Progress of an import in bytes: a bar on a terminal, otherwise a line now and then. Written to standard error."""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from kraken_history.csv_import import CsvFile, Phase

LINE_EVERY_S = 10.0
"""Seconds between two lines if standard error is not a terminal: enough to see that it goes on, in a log."""

_NAME_WIDTH = 34
# The part of a file's time that each phase takes, roughly as measured; a file without stored candles needs no merge.
_SHARES: dict[Phase, tuple[float, float]] = {"checking": (0.0, 0.1), "reading": (0.1, 0.7), "merging": (0.7, 1.0)}


class ImportProgress:
    """Shows how much of the files has been imported, and an estimate of the time left.

    Args:
        console: A console on standard error.
        write: Writes one line if the console is not a terminal.
    """

    def __init__(
        self,
        files: Sequence[CsvFile],
        console: Console,
        write: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sizes = iter([file.size for file in files])
        self._count = len(files)
        self._total = sum(file.size for file in files)
        self._finished = 0  # files
        self._before = 0  # bytes of these
        self._is_terminal = console.is_terminal
        self._write, self._clock = write, clock
        self._began = self._said = clock()
        columns = (
            TextColumn("{task.description}", table_column=Column(width=_NAME_WIDTH, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            TaskProgressColumn(),
            _Sizes(),
            _Left(),
        )
        self._progress = Progress(
            *columns, console=console, disable=not console.is_terminal, transient=True, expand=True
        )
        self._task = self._progress.add_task("starting", total=self._total or 1, bytes=True)

    def __enter__(self) -> "ImportProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, file: CsvFile, phase: Phase, done: int) -> None:
        """Show that so many bytes of a file have passed a phase."""
        start, end = _SHARES[phase]
        part = min(done / file.size, 1.0) if file.size else 1.0
        completed = self._before + int(file.size * (start + (end - start) * part))
        self._progress.update(self._task, description=f"{phase} {_end_of(file.name, phase)}", completed=completed)
        self._say(completed)

    def passed(self) -> None:
        """Count the next file as done."""
        self._before += next(self._sizes)
        self._finished += 1
        self._progress.update(self._task, completed=self._before)
        self._say(self._before)

    def show_refresh(self, interval: str, done: int, total: int) -> None:
        """Show that the longer intervals are being computed; the files are done.

        Args:
            done: Number of marks that are done, of all intervals.
            total: Number of marks.
        """
        words = f"computing candles of {interval}"
        self._progress.update(self._task, description=words, completed=done, total=total, bytes=False)
        if not self._is_terminal and self._is_due():
            self._write(f"{words}, {100 * done / total:.0f} % of the longer intervals")

    def _say(self, completed: int) -> None:
        if self._is_terminal or not self._is_due():
            return
        spent = self._clock() - self._began
        left = spent * (self._total - completed) / completed if completed else None
        about = "" if left is None else f", about {timedelta(seconds=round(left))} left"
        self._write(
            f"{self._finished:,} of {self._count:,} file(s), {decimal(completed)} of {decimal(self._total)}{about}"
        )

    def _is_due(self) -> bool:
        now = self._clock()
        if now - self._said < LINE_EVERY_S:
            return False
        self._said = now
        return True


def _end_of(name: str, phase: Phase) -> str:
    """The file's own name, without its beginning if it is too long."""
    own, most = name.rpartition("/")[2], _NAME_WIDTH - len(phase) - 1
    return own if len(own) <= most else f"…{own[1 - most :]}"


class _Sizes(ProgressColumn):
    """Bytes done and in all; empty while the longer intervals are computed."""

    def render(self, task: Task) -> Text:
        if not task.fields.get("bytes"):
            return Text("")
        return Text(f"{decimal(int(task.completed))}/{decimal(int(task.total or 0))}")


class _Left(ProgressColumn):
    """The estimate of the time left, from the average pace: that of the last seconds jumps between phases."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if not task.fields.get("bytes") or not task.completed or not task.total or not task.elapsed:
            return Text("")
        left = task.elapsed * (task.total - task.completed) / task.completed
        return Text(f"{timedelta(seconds=round(left))} left")
