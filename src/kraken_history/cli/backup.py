"""``backup`` and ``restore``: the whole database in one file of pg_dump's custom format."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from kraken_history.cli import servers as server_choice
from kraken_history.cli.clients import Client, Server, connection_of, fetch_server, fitting_clients, run_client
from kraken_history.cli.whole_file import check_target, whole_file
from kraken_history.database.connections import connect
from kraken_history.embedded.postgres import SUPERUSER
from kraken_history.errors import ServiceUnavailable, UsageError
from kraken_history.settings import Settings

_ROLES = ("kraken_reader", "kraken_writer")  # they belong to the server, so a dump of a database has grants only


def run_backup(settings: Settings, path: Path | None, *, replaces: bool) -> None:
    """Write the file and print its size. The services may run meanwhile.

    Raises:
        UsageError: The file is not valid, or no pg_dump fits the server.
        HistoryError: pg_dump failed.
    """
    path = path or Path(f"kraken-history-{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.dump")
    path = check_target(path, replaces=replaces)
    with server_choice.database(settings) as database_url:
        server = asyncio.run(fetch_server(database_url))
        program = fitting_clients("pg_dump", server.major)[0]
        url, environment = connection_of(database_url)
        with whole_file(path) as file:
            run_client([program.path, "--format=custom", "--dbname", url], environment, stdout=file)
    sys.stderr.write(f"{path.stat().st_size / 1e6:,.1f} MB written to {path}\n")


def run_restore(settings: Settings, path: Path) -> None:
    """Restore the file into a database that holds no data.

    Raises:
        UsageError: The file is not a backup, the database holds data, or no pg_restore fits.
        HistoryError: pg_restore failed.
    """
    if not path.is_file():
        raise UsageError(f"expected a file that `kraken-history backup` wrote, got {path}, which is not a file")
    with server_choice.endpoints(settings, needs_redis=False, migrates=False) as those:
        is_embedded = server_choice.endpoints_that_are_set(settings)[0] is None
        server = asyncio.run(fetch_server(those.database_url))
        program, contents = _reader_of(path, fitting_clients("pg_restore", server.major))
        _check_contents(path, contents)
        asyncio.run(_restore(those.database_url, server, program, path, contents, may_recreate=is_embedded))
    sys.stderr.write(f"restored {path}; run `kraken-history migrate` if this version of kraken-history is newer\n")


def _reader_of(path: Path, programs: list[Client]) -> tuple[Client, str]:
    """The first of the programs that can read the file, and its list of the file's contents."""
    for program in programs:
        listed = subprocess.run([program.path, "--list", path], capture_output=True, text=True, check=False)
        if not listed.returncode:
            return program, listed.stdout
    reason = " ".join(listed.stderr.split()).removeprefix("pg_restore: error: ")
    raise UsageError(f"expected a file that `kraken-history backup` wrote, got {path}: {reason}")


def _check_contents(path: Path, contents: str) -> None:
    if "TABLE DATA public schema_migrations" not in contents and " schema_migrations " not in contents:
        raise UsageError(
            f"expected a backup of a kraken-history database, got {path}, which is one of another database"
        )


async def _restore(
    database_url: str, server: Server, program: Client, path: Path, contents: str, *, may_recreate: bool
) -> None:
    if server.has_schema:
        if server.has_data or not may_recreate:
            raise UsageError(
                "the database is not empty: restore into a new one, given by DATABASE_URL, or by"
                " KRAKEN_HISTORY_DATA_DIR for an embedded one"
            )
        await _recreate(database_url)
    await _make_roles(database_url)
    url, environment = connection_of(database_url)
    argv: list[str | Path] = [program.path, "--no-owner", "--exit-on-error", "--dbname", url, path]
    is_timescaledb = " EXTENSION - timescaledb" in contents
    async with _timescaledb_restoring(database_url) if is_timescaledb else _as_it_is():
        await asyncio.to_thread(run_client, argv, environment)


async def _recreate(database_url: str) -> None:
    """Replace the embedded database, whose tables are empty, by a new one."""
    parts = urlsplit(database_url)
    name = parts.path.removeprefix("/")
    connection = await connect(urlunsplit(parts._replace(path="/postgres")))
    try:
        await connection.execute(f'DROP DATABASE "{name}"')
        await connection.execute(f'CREATE DATABASE "{name}" OWNER {SUPERUSER}')
    except asyncpg.ObjectInUseError as error:
        raise ServiceUnavailable(f"the database is in use: stop `kraken-history up` first ({error})") from error
    finally:
        await connection.close()


async def _make_roles(database_url: str) -> None:
    connection = await connect(database_url)
    try:
        for role in _ROLES:
            if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role):
                await connection.execute(f"CREATE ROLE {role} NOLOGIN")
    except asyncpg.InsufficientPrivilegeError as error:
        create = "; ".join(f"CREATE ROLE {role} NOLOGIN" for role in _ROLES)
        raise UsageError(f"the user of DATABASE_URL may not create roles: have a superuser run `{create}`") from error
    finally:
        await connection.close()


@asynccontextmanager
async def _timescaledb_restoring(database_url: str) -> AsyncIterator[None]:
    await _ask(database_url, "CREATE EXTENSION IF NOT EXISTS timescaledb")
    await _ask(database_url, "SELECT timescaledb_pre_restore()")
    try:
        yield
    finally:
        await _ask(database_url, "SELECT timescaledb_post_restore()")


async def _ask(database_url: str, statement: str) -> None:
    connection = await connect(database_url)  # a new session each time: the extension requires it
    try:
        await connection.execute(statement)
    except (asyncpg.UndefinedFileError, asyncpg.FeatureNotSupportedError) as error:
        raise UsageError(f"the backup is one of TimescaleDB, and the server does not have it ({error})") from error
    finally:
        await connection.close()


@asynccontextmanager
async def _as_it_is() -> AsyncIterator[None]:
    yield
