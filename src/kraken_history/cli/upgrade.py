"""``upgrade``: the embedded database under a newer major version of PostgreSQL."""

import sys

from kraken_history.cli import servers as server_choice
from kraken_history.embedded import Servers
from kraken_history.errors import UsageError
from kraken_history.settings import Settings


def run_upgrade(settings: Settings) -> None:
    """Upgrade, and print where the old files are.

    Raises:
        UsageError: DATABASE_URL is set, or see :meth:`Servers.upgrade`.
        ServiceUnavailable: A step failed. The old database is as it was.
    """
    if server_choice.endpoints_that_are_set(settings)[0] is not None:
        raise UsageError("`upgrade` is for the embedded database: unset DATABASE_URL")
    kept = Servers(server_choice.data_dir(settings)).upgrade(say=_say)
    _say(
        "nothing to do: the versions agree" if kept is None else f"done; the old files are in {kept}: remove them later"
    )


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
