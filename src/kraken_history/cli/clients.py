"""PostgreSQL's own programs (psql, pg_dump, pg_restore), run on the database of a command."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit, urlunsplit

from msgspec import Struct

from kraken_history.database.connections import connect
from kraken_history.database.urls import read_database_url
from kraken_history.embedded.binaries import INSTALL_HINT, postgres_folders
from kraken_history.embedded.process import telling_line
from kraken_history.errors import HistoryError, UsageError

_DEBIAN = Path("/usr/lib/postgresql")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


class Server(Struct, frozen=True):
    """The server of a database.

    Attributes:
        major: PostgreSQL's major version.
        timescaledb: Version of the extension in this database; None if it is not created here.
        has_schema: Whether a migration has run in this database.
        has_data: Whether it holds trades or candles.
    """

    major: int
    timescaledb: str | None
    has_schema: bool
    has_data: bool


class Client(Struct, frozen=True):
    """One of PostgreSQL's programs, and its major version."""

    path: Path
    major: int


async def fetch_server(database_url: str) -> Server:
    """Ask the database about itself."""
    connection = await connect(database_url)
    try:
        has_schema = await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL")
        has_data = "SELECT EXISTS (SELECT FROM trades) OR EXISTS (SELECT FROM candles)"
        return Server(
            connection.get_server_version().major,
            await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"),
            has_schema,
            has_schema and await connection.fetchval(has_data),
        )
    finally:
        await connection.close()


def find_clients(name: str, folders: Iterable[Path] | None = None) -> list[Client]:
    """The installed versions of a program, the oldest first; of each version, the wheel's is preferred.

    Args:
        folders: Where to search. Default: the wheel, Debian's folders, and PATH.
    """
    if folders is None:
        on_path = shutil.which(name)
        folders = [*postgres_folders(), *_DEBIAN.glob("*/bin"), *([Path(on_path).parent] if on_path else [])]
    found: dict[int, Client] = {}
    for folder in folders:
        if os.access(folder / name, os.X_OK) and (major := _major_of(folder / name)) is not None:
            found.setdefault(major, Client(folder / name, major))
    return [found[major] for major in sorted(found)]


def _major_of(program: Path) -> int | None:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    match = _VERSION.search(said.stdout)
    return int(match[1]) if match else None


def fitting_clients(name: str, server_major: int) -> list[Client]:
    """The versions of a program that can work on this server, the most similar first.

    A dump program reads servers of its own version and older ones. A newer one than necessary may write statements
    that the server does not know, so the oldest that fits comes first.

    Raises:
        UsageError: None is installed.
    """
    found = find_clients(name)
    fitting = [client for client in found if client.major >= server_major]
    if not fitting:
        got = f"only {name} {found[-1].major}" if found else f"no {name}"
        install = f"install the client programs of PostgreSQL {server_major}"
        hint = install if found else f"{install}, or {INSTALL_HINT.split(', or set')[0]}"
        raise UsageError(f"the server is PostgreSQL {server_major}, and {got} was found: {hint}")
    return fitting


def connection_of(database_url: str) -> tuple[str, dict[str, str]]:
    """The URL for a command line, where every account sees it, and the environment that holds the password."""
    parts = urlsplit(read_database_url(database_url).libpq_url())
    account, at, hosts = parts.netloc.rpartition("@")
    user, _, password = account.partition(":")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    if password:
        environment["PGPASSWORD"] = unquote(password)
    return urlunsplit(parts._replace(netloc=f"{user}{at}{hosts}")), environment


def run_client(
    argv: Sequence[str | Path],
    environment: Mapping[str, str],
    *,
    stdin: BinaryIO | int = subprocess.DEVNULL,
    stdout: BinaryIO | int = subprocess.DEVNULL,
) -> None:
    """Run a program to its end.

    Raises:
        HistoryError: It failed; the message has its reason.
    """
    done = subprocess.run(argv, env=environment, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        words = telling_line(done.stderr.decode(errors="replace"))
        raise HistoryError(f"{Path(argv[0]).name} failed: {words}")
