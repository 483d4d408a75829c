"""Moves an embedded cluster to a newer major version of PostgreSQL, by dump and restore.

Both servers run meanwhile, each with the programs of its version. The new cluster is built beside the old one and takes
its place by renaming, so at each moment there is one complete cluster. The old files stay, under another name.
"""

import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from shutil import disk_usage, rmtree

from kraken_history.embedded.postgres import LAPTOP_SETTINGS, SUPERUSER, Postgres
from kraken_history.embedded.process import HOST, server_environment, telling_line
from kraken_history.errors import ServiceUnavailable, UsageError

_BUILT, _DRAFT = "postgres.upgraded", "postgres.upgrading"
_COUNTS = (
    "SELECT (SELECT count(*) FROM trades), (SELECT count(*) FROM candles), (SELECT count(*) FROM data_sync_status)"
)


def draft_of(data_dir: Path) -> Path:
    """The folder in which the new cluster is built."""
    return data_dir / _DRAFT


def upgrade(
    old: Postgres, new: Postgres, *, password: str, database: str, timeout_s: float, say: Callable[[str], None]
) -> Path:
    """Build ``new`` from ``old``, and let it take its place; return the folder of the old files. Neither runs then.

    Args:
        old: Not running.
        new: In :func:`draft_of` the same folder.
        password: The superuser's, the same for both.

    Raises:
        UsageError: There is not enough space.
        ServiceUnavailable: A step failed. The old cluster is as it was.
    """
    _check_space(old.data)
    rmtree(new.data, ignore_errors=True)
    try:
        new.create(password=password, database=database, settings=LAPTOP_SETTINGS)
        with ExitStack() as stack:
            for server in (old, new):
                stack.callback(server.stop, timeout_s)
                server.start(timeout_s)
            say("copying the database")
            _copy(_Session(old, new.bin_dir, password, database), _Session(new, new.bin_dir, password, database))
    except BaseException:
        rmtree(new.data, ignore_errors=True)
        raise
    kept = _name_for(old.data)
    new.data.rename(new.data.with_name(_BUILT))
    finish(old.data)
    return kept


def finish(data: Path) -> None:
    """Let a cluster that was built completely take the place of ``data``. Also after an interruption at any point."""
    built = data.with_name(_BUILT)
    if not built.exists():
        return
    if data.exists():
        data.rename(_name_for(data))
    built.rename(data)


def _name_for(data: Path) -> Path:
    """A free name for the old files."""
    name = data.with_name(f"{data.name}-{(data / 'PG_VERSION').read_text().strip()}")
    number = 1
    while name.exists():
        number += 1
        name = name.with_name(f"{name.name.partition('.')[0]}.{number}")
    return name


def _check_space(data: Path) -> None:
    needed = sum(os.lstat(Path(folder, name)).st_size for folder, _, names in os.walk(data) for name in names)
    free = disk_usage(data).free
    if free < needed:
        raise UsageError(
            f"the upgrade keeps the old files, and needs {needed / 1e6:,.0f} MB in {data.parent},"
            f" where {free / 1e6:,.0f} MB are free: free some space first"
        )


class _Session:
    """Runs client programs on one server."""

    def __init__(self, server: Postgres, bin_dir: Path, password: str, database: str) -> None:
        self._bin_dir = bin_dir
        self._environment = server_environment() | {
            "PGHOST": HOST,
            "PGPORT": str(server.port),
            "PGUSER": SUPERUSER,
            "PGPASSWORD": password,
            "PGDATABASE": database,
            "PGSSLMODE": "disable",
        }

    def start(self, program: str, *options: str, **pipes: object) -> "subprocess.Popen[bytes]":
        """Start a program; its errors can be read from its standard error."""
        argv = [str(self._bin_dir / program), *options]
        return subprocess.Popen(argv, env=self._environment, stderr=subprocess.PIPE, **pipes)  # type: ignore[call-overload,no-any-return]  # pipes

    def ask(self, statement: str) -> str:
        """The answer to a query as psql prints it."""
        argv = [str(self._bin_dir / "psql"), "-XAtc", statement]
        done = subprocess.run(argv, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServiceUnavailable(f"the upgrade failed: {telling_line(done.stderr)}")
        return done.stdout.strip()


def _copy(old: _Session, new: _Session) -> None:
    # An error is expected here: the superuser exists.
    _pipe(old, ["pg_dumpall", "--roles-only"], new, ["psql", "-Xq", "--output", os.devnull], may_fail=True)
    _pipe(old, ["pg_dump", "--format=custom"], new, ["pg_restore", "--exit-on-error", "--dbname="])
    if old.ask("SELECT to_regclass('data_sync_status') IS NOT NULL") == "t":
        before, after = old.ask(_COUNTS), new.ask(_COUNTS)
        if before != after:
            raise ServiceUnavailable(
                f"the upgrade failed: expected {before} trades, candles and symbols in the new database, got {after}"
            )
    new.ask("ANALYZE")


def _pipe(
    old: _Session, reading: Sequence[str], new: _Session, writing: Sequence[str], *, may_fail: bool = False
) -> None:
    with (
        old.start(*reading, stdout=subprocess.PIPE) as reader,
        new.start(*writing, stdin=reader.stdout, stdout=subprocess.DEVNULL) as writer,
    ):
        assert reader.stdout is not None
        reader.stdout.close()
        complaints = writer.communicate()[1] + reader.communicate()[1]
    if reader.returncode or (writer.returncode and not may_fail):
        raise ServiceUnavailable(f"the upgrade failed: {telling_line(complaints.decode(errors='replace'))}")
