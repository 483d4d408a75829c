"""Ctrl-C while the command is still being loaded."""

import subprocess
import sys

import pytest

# Sends the signal from within the import of a module, as if it came just then.
INTERRUPTED = """
import os, signal, sys
module, number, *arguments = sys.argv[1:]
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), int(number))
sys.meta_path.insert(0, Interrupt())
sys.argv = ["kraken-history", *arguments]
from kraken_history.__main__ import main
main()
"""
BY_CTRL_C, BY_TERMINATION = "2", "15"


def run(module: str, number: str, *arguments: str, start: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", start + INTERRUPTED, module, number, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_ends_it_without_a_traceback() -> None:
    done = run("kraken_history.cli.app", BY_CTRL_C, "--version")

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("number", [BY_CTRL_C, BY_TERMINATION])
@pytest.mark.parametrize("module", ["kraken_history.cli.status", "asyncpg"])
def test_ends_it_without_a_traceback_while_its_modules_load(module: str, number: str) -> None:
    done = run(module, number, "status")

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_is_still_ignored_where_it_was() -> None:
    start = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"

    done = run("kraken_history.cli.app", BY_CTRL_C, "--version", start=start)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("kraken-history ")
