"""Progress of a refresh: a bar on a terminal, otherwise a line now and then. Written to standard error."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column

from kraken_history.storing.longer_intervals import Aggregate

LINE_EVERY_S = 10.0
"""Seconds between two lines if standard error is not a terminal."""

_WIDTH = 34


class RefreshProgress:
    """Shows how much of a refresh is done.

    Args:
        console: A console on standard error.
        write: Writes one line if the console is not a terminal.
    """

    def __init__(
        self, console: Console, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._is_terminal = console.is_terminal
        self._write, self._clock = write, clock
        self._said = clock()
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(width=_WIDTH, no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            TaskProgressColumn(),
            console=console, disable=not console.is_terminal, transient=True, expand=True,
        )  # fmt: skip
        self._task = self._progress.add_task("waiting for another refresh", total=None)

    def __enter__(self) -> "RefreshProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, aggregate: Aggregate, done: int, wanted: int) -> None:
        """Show that so many marks are done, and which interval is being computed."""
        words = f"computing candles of {aggregate.interval}"
        self._progress.update(self._task, description=words, completed=done, total=wanted)
        now = self._clock()
        if not self._is_terminal and now - self._said >= LINE_EVERY_S:
            self._said = now
            self._write(f"{words}, {100 * done / wanted:.0f} % of the longer intervals")
