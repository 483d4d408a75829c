"""The command starts fast: help and version load no library that they do not need."""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.cli.samples import store, trade
from tests.cli.test_app import COMMANDS
from tests.support.servers import Background

HEAVY = {
    "aiohttp",
    "arq",
    "asyncio",
    "asyncpg",
    "hiredis",
    "matplotlib",
    "numpy",
    "pandas",
    "polars",
    "prometheus_client",
    "pyarrow",
    "pydantic_settings",
    "redis",
    "structlog",
    "supervisor",
}
# Typer itself may load pydantic for the help of a command, to describe the ranges of numbers.
HEAVY_AT_THE_TOP = HEAVY | {"pydantic"}

LOADED_BY = """
import sys
from kraken_history.cli.app import run
for words in sys.argv[1:]:
    assert run(words.split()) == 0
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def loaded_by(*commands: str, environment: Mapping[str, str] | None = None) -> set[str]:
    """The top-level modules that a process has loaded after these commands."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED_BY, *commands],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def best_processor_time_s(code: str) -> float:
    """The least processor time that a process needs for this code, out of three tries."""
    return min(_processor_time_s(code) for _ in range(3))


def _processor_time_s(code: str) -> float:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_load_no_heavy_module(option: str) -> None:
    assert loaded_by(option) & HEAVY_AT_THE_TOP == set()


def test_the_help_of_every_command_loads_no_heavy_module() -> None:
    assert loaded_by(*(f"{name} --help" for name in COMMANDS)) & HEAVY == set()


def test_a_command_that_runs_does_load_them() -> None:
    """Proves that the other tests look at the right names."""
    assert loaded_by("env") >= {"asyncio", "asyncpg", "redis"}


@pytest.fixture
def filled_url(migrated_database_url: str, background: Background) -> str:
    background.run(store(migrated_database_url, [trade(n, 60 * n) for n in range(1, 11)]))
    return migrated_database_url


NEVER_FOR_A_READ = {"aiohttp", "arq", "matplotlib", "numpy", "pandas", "platformdirs", "prometheus_client", "pyarrow"}
NEVER_FOR_A_READ |= {"structlog", "supervisor"}


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("commands", "also_not"),
    [
        (["candles BTC/USDT --format csv", "candles BTC/USDT --format json --from 2026-01-01"], {"redis", "rich"}),
        (["candles BTC/USDT"], {"redis"}),
        (["status --json"], {"rich"}),
        (["status"], set()),
    ],
)
def test_a_command_that_reads_loads_no_library_that_it_does_not_need(
    commands: list[str], also_not: set[str], filled_url: str, redis_url: str
) -> None:
    environment = {"DATABASE_URL": filled_url, "REDIS_URL": redis_url}

    loaded = loaded_by(*commands, environment=environment)

    assert loaded & (NEVER_FOR_A_READ | also_not) == set()
    assert "asyncpg" in loaded


def test_the_version_costs_little_more_than_loading_typer() -> None:
    version = "import sys; sys.argv = ['', '--version']; from kraken_history.__main__ import main; main()"
    typer_s, version_s = best_processor_time_s("import typer"), best_processor_time_s(version)

    # Twice as much is usual; with every module loaded it is more than ten times as much.
    assert version_s < 5 * typer_s
