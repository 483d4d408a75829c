"""``psql``: PostgreSQL's shell on the database of the commands."""

import signal
import subprocess
from collections.abc import Sequence

from kraken_history.cli import servers as server_choice
from kraken_history.cli.clients import connection_of, find_clients
from kraken_history.embedded.binaries import INSTALL_HINT
from kraken_history.errors import UsageError
from kraken_history.settings import Settings


def run_psql(settings: Settings, arguments: Sequence[str]) -> int:
    """Run psql with further arguments; return its exit code.

    Raises:
        UsageError: No psql is installed.
    """
    found = find_clients("psql")
    if not found:
        raise UsageError(f"found no psql: {INSTALL_HINT.split(', or set')[0]}, or install PostgreSQL's client programs")
    with server_choice.database(settings) as database_url:
        url, environment = connection_of(database_url)
        psql = subprocess.Popen([found[-1].path, "--dbname", url, *arguments], env=environment)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for psql, which ends its statement
        try:
            return psql.wait()
        finally:
            signal.signal(signal.SIGINT, before)
