"""What a refresh shows of its progress."""

import io

from rich.console import Console

from kraken_history.cli.refresh_progress import LINE_EVERY_S, RefreshProgress
from kraken_history.storing.longer_intervals import AGGREGATES


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_it_writes_a_line_now_and_then() -> None:
    lines: list[str] = []
    clock = Clock()

    with RefreshProgress(Console(file=io.StringIO()), lines.append, clock) as progress:
        for done in range(100):
            clock.now += LINE_EVERY_S / 20
            progress.show(AGGREGATES[done // 50], done, 100)

    assert lines == [
        "computing candles of 5m, 19 % of the longer intervals",
        "computing candles of 5m, 39 % of the longer intervals",
        "computing candles of 15m, 59 % of the longer intervals",
        "computing candles of 15m, 79 % of the longer intervals",
        "computing candles of 15m, 99 % of the longer intervals",
    ]


def test_a_short_refresh_writes_no_line() -> None:
    lines: list[str] = []

    with RefreshProgress(Console(file=io.StringIO()), lines.append, Clock()) as progress:
        progress.show(AGGREGATES[0], 0, 1)

    assert lines == []


def test_on_a_terminal_it_is_one_line() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None, legacy_windows=False)

    with RefreshProgress(console, print) as progress:
        progress.show(AGGREGATES[3], 1, 4)
        screen.truncate(screen.seek(0))
        progress._progress.refresh()
        shown = screen.getvalue()

    (line,) = {line for line in shown.replace("\r", "\n").replace("\x1b[2K", "").splitlines() if line.strip()}
    assert len(line) <= 80
    assert line.startswith("computing candles of 1h")
    assert "25%" in line
