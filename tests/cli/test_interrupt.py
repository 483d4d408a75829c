"""Ctrl-C while the command is still being loaded."""

import subprocess
import sys

# Sends the signal from within the import of the command, as if it came just then.
INTERRUPTED = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "kraken_history.cli.app":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["kraken-history", "--version"]
from kraken_history.__main__ import main
main()
"""


def run(start: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", start + INTERRUPTED], capture_output=True, text=True, check=False)


def test_ends_it_without_a_traceback() -> None:
    done = run()

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_is_still_ignored_where_it_was() -> None:
    done = run("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("kraken-history ")
