"""The progress of ``import-csv``, without files and without a database."""

import io
from pathlib import Path

from rich.console import Console

from kraken_history.cli.import_progress import LINE_EVERY_S, ImportProgress
from kraken_history.csv_import import CsvFile, Phase

PHASES: list[Phase] = ["checking", "reading", "merging"]
MEGABYTE = 1_000_000


def file(name: str, megabytes: int) -> CsvFile:
    return CsvFile(f"downloads/Kraken_OHLCVT.zip/master/{name}", megabytes * MEGABYTE, Path(name))


class Clock:
    """A clock that is set."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    clock, lines = Clock(), list[str]()
    files = [file("XBTUSD_1.csv", 30), file("ETHUSD_1.csv", 10)]

    with ImportProgress(files, Console(file=io.StringIO()), lines.append, clock) as progress:
        for each in files:
            for phase in PHASES:
                for done in range(0, each.size + 1, MEGABYTE):
                    clock.now += LINE_EVERY_S / 10
                    progress.show(each, phase, done)
            progress.passed()
        clock.now += LINE_EVERY_S
        progress.show_refresh("15m", 15, 80)

    assert 10 <= len(lines) <= 14
    assert lines[0] == "0 of 2 file(s), 900.0 kB of 40.0 MB, about 0:07:14 left"
    assert lines[-2].startswith("1 of 2 file(s), ")
    assert lines[-1] == "computing candles of 15m, 19 % of the longer intervals"


def test_a_short_import_writes_no_line() -> None:
    lines: list[str] = []

    with ImportProgress([file("A_1.csv", 1)], Console(file=io.StringIO()), lines.append, Clock()) as progress:
        progress.passed()

    assert lines == []


def test_on_a_terminal_of_80_columns_every_phase_fits_into_one_line() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    long = file("a-very-long-name-of-a-file-of-somebody_XBTUSD_1_Q1_2026.csv", 100)

    with ImportProgress([long, long], console, print) as progress:
        shown = []
        for phase in PHASES:
            progress.show(long, phase, long.size // 2)
            screen.truncate(screen.seek(0))
            progress._progress.refresh()
            shown.append(screen.getvalue())
        progress.show_refresh("5m", 1, 4)

    for phase, text in zip(PHASES, shown, strict=True):
        lines = [line for line in text.replace("\r", "\n").replace("\x1b[2K", "").splitlines() if line.strip()]
        assert len(lines) == 1
        assert len(lines[0]) <= 80
        assert lines[0].startswith(f"{phase} …")
        assert "_1_Q1_2026.csv" in lines[0]
        assert "%" in lines[0]
        assert "/200.0 MB" in lines[0]
