"""The command inside this process, with an environment of its own."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kraken_history.cli.app import run
from kraken_history.settings import Settings


class Outcome(NamedTuple):
    """The outcome of a command."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No settings from the caller's environment, and a data directory that does not exist yet."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("KRAKEN_HISTORY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("REDIS_WAIT_S", "0")  # a test that wants a command to wait says so
    monkeypatch.setenv("TERM", "dumb")
    return monkeypatch


@pytest.fixture
def command(clean_environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command: ``command("status", "--json", DATABASE_URL=…)``."""

    def run_command(*arguments: str, **environment: str) -> Outcome:
        for name, value in environment.items():
            clean_environment.setenv(name, value)
        capsys.readouterr()
        code = run(arguments)
        return Outcome(code, *capsys.readouterr())

    before = signal.getsignal(signal.SIGTERM)
    yield run_command
    signal.signal(signal.SIGTERM, before)
