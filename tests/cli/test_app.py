"""Every command has help and is documented, and bad input is one line."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.samples import execute, store, trade
from tests.support.command import Run
from tests.support.servers import Background

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = (
    "up",
    "demo",
    "migrate",
    "status",
    "candles",
    "coverage",
    "export",
    "fetch-ohlc",
    "fill-gaps",
    "import-csv",
    "backfill",
    "refresh",
    "runs list",
    "runs show",
    "runs compare",
    "verify",
    "remove-trade",
    "dead-letters list",
    "dead-letters replay",
    "indicators fetch",
    "indicators list",
    "env",
    "health",
    "psql",
    "backup",
    "restore",
    "upgrade",
    "archive",
    "restore-archive",
    "replay",
    "web",
)
POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


def test_these_are_all_the_commands() -> None:
    from kraken_history.cli.app import app, letters_app
    from kraken_history.cli.commands.indicators import indicators_app

    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    names |= {f"dead-letters {command.name}" for command in letters_app.registered_commands}
    names |= {f"indicators {command.name}" for command in indicators_app.registered_commands}
    from kraken_history.cli.commands.runs import runs_app

    names |= {f"runs {command.name}" for command in runs_app.registered_commands}

    assert names == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, command: Run) -> None:
    outcome = command(*name.split(), "--help")

    assert outcome.code == 0
    assert "Example:" in outcome.out
    assert f"kraken-history {name}" in " ".join(outcome.out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)

    assert f"kraken-history {name}" in text


def test_the_version_is_shown(command: Run) -> None:
    outcome = command("--version")

    assert outcome.code == 0
    assert re.fullmatch(r"kraken-history \d+\.\d+\.\d+\S*\n", outcome.out)


def test_without_a_command_there_is_help(command: Run) -> None:
    outcome = command()

    assert outcome.code in (0, 2)
    assert "Usage" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "words"),
    [
        (["nonsense"], {}, 2, "No such command"),
        (["candles"], {}, 2, "symbol"),
        (["candles", "BTC/USDT", "--from", "2026-13-01"], {}, 2, "--from: expected a time such as"),
        (["candles", "BTC/USDT", "--to", "tomorrow"], {}, 2, "got 'tomorrow'"),
        (["candles", "BTC/USDT", "--from", "2026-02-01", "--to", "2026-01-01"], {}, 2, "reversed"),
        (["candles", "BTC/USDT", "--interval", "0"], {}, 2, "whole number of minutes"),
        (["candles", "BTC/USDT", "--interval", "x"], {}, 2, "an interval such as 15m, 1h, 4h, 1d or 1w, got 'x'"),
        (["candles", "BTC/USDT", "--from", "2026-01-01", "--days", "2"], {}, 2, "either --from or --days"),
        (["backfill", "BTC/USDT", "--status", "--days", "2"], {}, 2, "--days"),
        (["candles", "BTC/USDT", "--limit", "0"], {}, 2, "--limit: expected a number of at least 1, got '0'"),
        (["candles", "BTC/USDT", "--limit", "x"], {}, 2, "--limit: expected a whole number, got 'x'"),
        (["candles", "BTC/USDT", "--format", "xml"], {}, 2, "--format: expected one of table, csv, json, got 'xml'"),
        (["candles", "XBT-USDT"], {}, 2, "BTC/USDT"),
        (["dead-letters", "replay"], {}, 2, "--id ID or --all"),
        (["dead-letters", "replay", "--id", "1-0", "--all"], {}, 2, "--id ID or --all"),
        (["demo", "--seconds", "0"], {}, 2, "--seconds"),
        (["demo", "--rate", "-1"], {}, 2, "--rate: expected a number of at least 0.1, got '-1'"),
        (["demo", "--rate", "x"], {}, 2, "--rate: expected a number, got 'x'"),
        (["demo", "--seconds", "86401"], {}, 2, "--seconds: expected a number of at most 86,400, got '86401'"),
        (["health", "postgres"], {}, 2, "service: expected one of producer, consumer, worker, got 'postgres'"),
        (["status"], {"SYMBOLS": "no-symbol"}, 2, "SYMBOLS"),
        (["up"], {"METRICS_PORT": "many"}, 2, "METRICS_PORT"),
        (["migrate"], {"DATABASE_URL": "postgresql://a:secret@127.0.0.1:1/x"}, 1, "no database answers"),
        (["candles", "BTC/USDT"], {"DATABASE_URL": "mysql://a:secret@h/x"}, 2, "DATABASE_URL"),
        (["dead-letters", "list"], {"REDIS_URL": "redis://:secret@127.0.0.1:1/0"}, 1, "no Redis answers"),
        (["dead-letters", "list"], {"REDIS_URL": "http://:secret@127.0.0.1:1/0"}, 2, "REDIS_URL"),
        (["health", "worker"], {}, 1, "kraken-history up"),
        (["status"], {"KRAKEN_HISTORY_DATA_DIR": "/proc/nowhere"}, 2, "data directory /proc/nowhere"),
        (["up"], {"KRAKEN_HISTORY_DATA_DIR": "/proc/nowhere"}, 2, "data directory /proc/nowhere"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(
    arguments: Sequence[str], environment: dict[str, str], code: int, words: str, command: Run
) -> None:
    outcome = command(*arguments, **environment)

    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.count("\n") == 1
    assert words in outcome.err
    assert "secret" not in outcome.err
    assert "Traceback" not in outcome.err


@POSTGRESQL
@pytest.mark.parametrize(
    ("statement", "code", "words"),
    [
        ("DELETE FROM schema_migrations WHERE version > 1", 1, "older than this code"),
        ("UPDATE schema_migrations SET name = '9999_future.sql' WHERE version = 1", 1, "newer than this code"),
        ("UPDATE schema_migrations SET sha256 = 'x' WHERE version = 1", 1, "was changed after it was applied"),
    ],
)
def test_a_database_of_another_version_is_one_line(
    statement: str, code: int, words: str, migrated_database_url: str, background: Background, command: Run
) -> None:
    background.run(execute(migrated_database_url, statement))

    outcome = command("candles", "BTC/USDT", DATABASE_URL=migrated_database_url)

    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (code, "", 1)
    assert words in outcome.err


@POSTGRESQL
def test_a_wrong_password_and_an_unknown_database_are_one_line(migrated_database_url: str, command: Run) -> None:
    scheme, rest = migrated_database_url.split("://")
    wrong = f"{scheme}://{rest.split(':')[0]}:wrong@{rest.split('@')[1]}"

    password = command("candles", "BTC/USDT", DATABASE_URL=wrong)
    name = command("candles", "BTC/USDT", DATABASE_URL=migrated_database_url + "_not")

    for outcome in (password, name):
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert "correct" in outcome.err


@POSTGRESQL
def test_an_unknown_symbol_is_told_which_are_known(
    migrated_database_url: str, background: Background, command: Run
) -> None:
    background.run(store(migrated_database_url, [trade(1)]))

    outcome = command("candles", "DOGE/USD", DATABASE_URL=migrated_database_url)

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "kraken-history: the database holds nothing of 'DOGE/USD': expected one of BTC/USDT\n"


@POSTGRESQL
def test_migrate_twice_changes_nothing_the_second_time(database_url: str, command: Run) -> None:
    first = command("migrate", DATABASE_URL=database_url)
    second = command("migrate", DATABASE_URL=database_url)

    assert (first.code, first.out, second.code, second.out) == (0, "", 0, "")
    assert "0001_core.sql" in first.err
    assert second.err == "the database is up to date\n"


@POSTGRESQL
def test_a_reader_that_leaves_early_is_no_error(migrated_database_url: str, background: Background) -> None:
    background.run(store(migrated_database_url, [trade(n, 60 * n) for n in range(3_000)]))
    words = ["-m", "kraken_history", "candles", "BTC/USDT", "--limit", "3000", "--format", "csv"]
    script = " ".join([sys.executable, *words, "| head -n 1; exit ${PIPESTATUS[0]}"])

    done = subprocess.run(
        ["bash", "-c", script],
        env={"DATABASE_URL": migrated_database_url, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("symbol,timestamp,interval_minutes,open")


@pytest.mark.parametrize(("module", "arguments"), [("typer", ["--version"]), ("asyncpg", ["status"])])
def test_without_the_extra_the_command_says_what_to_install(module: str, arguments: list[str]) -> None:
    blocked = f"import sys; sys.modules[{module!r}] = None; from kraken_history.__main__ import main; main()"

    done = subprocess.run([sys.executable, "-c", blocked, *arguments], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"{module} is not installed" in done.stderr
    assert "pip install '.[services,embedded]' in the folder" in done.stderr
