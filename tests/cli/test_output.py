"""A full disk, or nothing at all, behind standard output and standard error."""

import subprocess
from pathlib import Path

import pytest

from kraken_history.cli.failures import complain
from tests.cli.samples import store, trade
from tests.cli.test_demo import COMMAND, environment
from tests.support.command import Run
from tests.support.servers import Background

plain_only = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)

_WRITING = (
    "--version",
    "candles --help",
    "status --json",
    "candles BTC/USDT --format csv --from 2026-01-05T10:00 --to 2026-01-05T10:02",
    "export BTC/USDT --output -",
    "env",
)


@plain_only
@pytest.mark.slow
@pytest.mark.parametrize("closing", [">&-", ">/dev/full"])
def test_output_that_cannot_be_written_is_one_true_line(
    closing: str, migrated_database_url: str, redis_url: str, background: Background, tmp_path: Path
) -> None:
    """The line said that a server was out of reach, or was a traceback, and the exit code was 120."""
    if closing == ">/dev/full" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    background.run(store(migrated_database_url, [trade(1), trade(2, 60), trade(3, 120)]))  # two whole minutes
    settings = environment(tmp_path) | {"DATABASE_URL": migrated_database_url, "REDIS_URL": redis_url}
    reason = "it is closed" if closing == ">&-" else "No space left on device"

    outcomes = {words: _run(f"{words} {closing}", settings) for words in _WRITING}

    expected = (1, f"kraken-history: cannot write to standard output: {reason}")
    assert {
        words: (code, error.rstrip().splitlines()[-1]) for words, (code, error) in outcomes.items()
    } == dict.fromkeys(_WRITING, expected)
    assert [error for _, error in outcomes.values() if error.count("\n") != 1] == []


def test_nobody_to_complain_to_changes_no_exit_code(tmp_path: Path) -> None:
    settings = environment(tmp_path)

    assert [_run(f"candles BTC/USDT --interval x {closing}", settings) for closing in ("2>&-", "2>&- >&- <&-")] == [
        (2, "")
    ] * 2
    assert _run("--version 2>&-", settings) == (0, "")


def test_a_command_without_output_does_not_need_it(tmp_path: Path) -> None:
    code, error = _run("candles BTC/USDT --interval x >&-", environment(tmp_path))

    assert (code, error.count("\n")) == (2, 1)
    assert "--interval" in error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/a/b.csv"), "cannot use /a/b.csv: Permission denied"),
        (IsADirectoryError(21, "Is a directory", Path("/a")), "cannot use /a: Is a directory"),
        (OSError(28, "No space left on device"), "cannot write a file: No space left on device"),
        (OSError(30, "Read-only file system"), "cannot write a file: Read-only file system"),
        (
            ConnectionRefusedError(111, "Connection refused"),
            "a server could not be reached: [Errno 111] Connection ref",
        ),
        (TimeoutError(), "a server could not be reached: TimeoutError. Try again later"),
    ],
)
def test_a_file_is_not_called_a_server(error: OSError, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert complain(error) == 1
    assert capsys.readouterr().err.startswith(f"kraken-history: {line}")


@plain_only
@pytest.mark.parametrize(
    "arguments",
    [
        "export BTC/USDT --output {}/x.csv",
        "candles BTC/USDT --plot {}/x.png",
        "backup {}/x.dump",
        "import-csv {}/x.csv",
    ],
)
def test_a_path_through_a_file_is_called_that(
    arguments: str, migrated_database_url: str, background: Background, command: Run, tmp_path: Path
) -> None:
    background.run(store(migrated_database_url, [trade(1), trade(2)]))
    (tmp_path / "file").touch()

    outcome = command(*arguments.format(tmp_path / "file").split(), DATABASE_URL=migrated_database_url)

    assert (outcome.code, outcome.err.count("\n")) in {(2, 1), (1, 1)}, outcome.err
    assert f"{tmp_path}/file" in outcome.err
    assert "server" not in outcome.err


def _run(words: str, settings: dict[str, str]) -> tuple[int, str]:
    """Exit code and standard error of a command with redirections."""
    line = f'exec "$@" {words}'
    done = subprocess.run(
        ["/bin/sh", "-c", line, "sh", *COMMAND], env=settings, stderr=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, done.stderr
