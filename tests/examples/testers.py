"""The examples as processes."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

REPOSITORY = Path(__file__).resolve().parents[2]
_CANDLE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d)Z (\S+) close ([\d,.]+) ", re.MULTILINE)
_RUN = re.compile(r"^saved as run (\S+)$", re.MULTILINE)


def run_example(name: str, *words: str, database_url: str | None) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [sys.executable, f"examples/{name}.py", *words],
        cwd=REPOSITORY,
        env=environment(database_url),
        capture_output=True,
        text=True,
        check=False,
    )


def environment(database_url: str | None) -> dict[str, str]:
    """All that an example sees."""
    return {"PATH": os.environ["PATH"]} | ({"DATABASE_URL": database_url} if database_url else {})


class PaperTester:
    """A running ``paper_tester.py``; leaving ``with`` kills it."""

    def __init__(self, log: Path, database_url: str, *words: str, folder: Path = REPOSITORY) -> None:
        self._log = log
        self._words = words
        self._folder = folder
        self._database_url = database_url
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, REPOSITORY / "examples/paper_tester.py", *self._words],
                cwd=self._folder,
                env=environment(self._database_url),
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def output(self) -> str:
        """What it has said."""
        return self._log.read_text()

    @property
    def is_following(self) -> bool:
        """True once it waits for candles."""
        return "\nfollowing " in self.output

    def candles(self, symbol: str) -> list[tuple[str, str]]:
        """Open time and close of the candles of one symbol that it was given."""
        return [(at, close.replace(",", "")) for at, name, close in _CANDLE.findall(self.output) if name == symbol]

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=15)


def saved_run(output: str) -> str:
    """The id of the run that was saved."""
    found = _RUN.search(output)
    assert found is not None, output
    return found[1]
