"""Applies ``schema/*.sql``: each file once, in order, under a lock.

A file is named ``NNNN_what.sql`` and may begin with directives:

``-- migrate: if CAPABILITY`` / ``-- migrate: unless CAPABILITY``
    The file is applied only on servers that have, or lack, ``hypertables`` or ``continuous_aggregates``.
``-- migrate: no-transaction``
    The file is applied outside a transaction; it must contain a single statement.

The first migration of a database determines the server's capabilities and records them in the database.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import asyncpg
from msgspec import Struct

from kraken_history.database.connections import Connection, connect
from kraken_history.database.locks import holding
from kraken_history.database.roles import wrong_role
from kraken_history.errors import SchemaMismatch, ServiceUnavailable, UsageError

HYPERTABLES = "hypertables"
CONTINUOUS_AGGREGATES = "continuous_aggregates"
_CAPABILITIES = {HYPERTABLES, CONTINUOUS_AGGREGATES}

# An arbitrary constant. It must never change, or two versions could migrate at the same time.
_LOCK_KEY = 0x6B72616B656E

_NAME = re.compile(r"(?P<version>\d{4})_\w+\.sql")
_DIRECTIVE = re.compile(r"-- migrate: (?P<text>.+)")


class Migration(Struct, frozen=True):
    """One file of the schema.

    Attributes:
        needs: Capabilities that the server must have.
        avoids: Capabilities that the server must lack.
    """

    version: int
    name: str
    sql: str
    sha256: str
    in_transaction: bool
    needs: frozenset[str]
    avoids: frozenset[str]

    def fits(self, capabilities: frozenset[str]) -> bool:
        """True if this migration applies to a server with these capabilities."""
        return self.needs <= capabilities and not self.avoids & capabilities


def schema_directory() -> Path:
    """The directory of the ``.sql`` files: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "_schema"
    return installed if installed.is_dir() else package.parent.parent / "schema"


def read_migrations(directory: Path | None = None) -> list[Migration]:
    """All migrations, in the order in which they are applied.

    Raises:
        UsageError: A file is not named like a migration, or has an unknown directive.
    """
    files = sorted((directory or schema_directory()).glob("*.sql"))
    return [parse_migration(file.name, file.read_text(encoding="utf-8")) for file in files]


def parse_migration(name: str, sql: str) -> Migration:
    """Read the directives at the head of a migration."""
    named = _NAME.fullmatch(name)
    if named is None:
        raise UsageError(f"schema/{name}: expected a file name like 0001_what.sql")
    in_transaction, needs, avoids = True, set[str](), set[str]()
    for line in sql.splitlines():
        directive = _DIRECTIVE.fullmatch(line.strip())
        if directive is None:
            break
        match directive["text"].split():
            case ["no-transaction"]:
                in_transaction = False
            case ["if", capability] if capability in _CAPABILITIES:
                needs.add(capability)
            case ["unless", capability] if capability in _CAPABILITIES:
                avoids.add(capability)
            case _:
                raise UsageError(f"schema/{name}: unknown directive: {line}")
    digest = hashlib.sha256(sql.encode()).hexdigest()
    return Migration(int(named["version"]), name, sql, digest, in_transaction, frozenset(needs), frozenset(avoids))


async def migrate(
    database_url: str, *, migrations: Sequence[Migration] | None = None, lock_timeout_s: float = 60.0
) -> list[str]:
    """Bring a database to this code's schema and return the names of the files applied now.

    Any number of processes may call this at once: one applies the files, the others wait and have nothing to do.

    Raises:
        SchemaMismatch: The database is newer than this code, or a file was changed after it was applied.
        UsageError: The user may not create tables, or does not own those that exist.
        ServiceUnavailable: The database cannot be reached, or another process holds the lock for too long.
    """
    wanted = read_migrations() if migrations is None else migrations
    connection = await connect(database_url, for_writing=True)
    try:
        async with holding(connection, _LOCK_KEY, wait_s=lock_timeout_s) as is_held:
            if not is_held:
                raise ServiceUnavailable(
                    f"another process still holds the migration lock after {lock_timeout_s:g} s: try again"
                )
            return await _apply(connection, wanted)
    except asyncpg.InsufficientPrivilegeError as error:
        raise wrong_role(str(error), "the owner of the database and its tables") from error
    finally:
        await connection.close()


async def check_schema(connection: Connection) -> None:
    """Check that the database has exactly this code's schema. Services call this before they start.

    Raises:
        SchemaMismatch: The schema is missing, older, newer or changed; the message names the remedy.
        UsageError: The user may not read it.
    """
    try:
        await _check_schema(connection)
    except asyncpg.InsufficientPrivilegeError as error:
        raise wrong_role(str(error), "a user in kraken_reader or kraken_writer, or of the owner") from error


async def _check_schema(connection: Connection) -> None:
    applied = await _applied(connection)
    if not applied:
        raise SchemaMismatch("the database has no schema yet: run `kraken-history migrate`")
    wanted = _fitting(read_migrations(), await kept_capabilities(connection))
    missing = _missing(wanted, applied)
    if missing:
        raise SchemaMismatch(
            f"the database is older than this code (it lacks {missing[0].name}): run `kraken-history migrate`"
        )


async def kept_capabilities(connection: Connection) -> frozenset[str]:
    """The capabilities that the server had when the database was first migrated."""
    kept = await connection.fetchval("SELECT capabilities FROM schema_migrations ORDER BY version LIMIT 1")
    return frozenset(kept or ())


async def _apply(connection: Connection, wanted: Sequence[Migration]) -> list[str]:
    await connection.execute(
        """
        CREATE TABLE IF NOT EXISTS schema_migrations (
            name         text        PRIMARY KEY,
            version      integer     NOT NULL,
            sha256       text        NOT NULL,
            capabilities text[]      NOT NULL,
            applied_at   timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    applied = await _applied(connection)
    capabilities = await kept_capabilities(connection) if applied else await _look_at_server(connection)
    missing = _missing(_fitting(wanted, capabilities), applied)
    for migration in missing:
        await _apply_one(connection, migration, capabilities)
    return [migration.name for migration in missing]


async def _apply_one(connection: Connection, migration: Migration, capabilities: frozenset[str]) -> None:
    record = (
        "INSERT INTO schema_migrations (name, version, sha256, capabilities) VALUES ($1, $2, $3, $4)",
        migration.name,
        migration.version,
        migration.sha256,
        sorted(capabilities),
    )
    try:
        if migration.in_transaction:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(*record)
        else:
            await connection.execute(migration.sql)
            await connection.execute(*record)
    except asyncpg.InsufficientPrivilegeError:
        raise
    except asyncpg.PostgresError as error:
        raise SchemaMismatch(f"schema/{migration.name} could not be applied: {error}") from error


def _fitting(migrations: Iterable[Migration], capabilities: frozenset[str]) -> list[Migration]:
    return [migration for migration in migrations if migration.fits(capabilities)]


def _missing(wanted: Sequence[Migration], applied: dict[str, str]) -> list[Migration]:
    unknown = applied.keys() - {migration.name for migration in wanted}
    if unknown:
        raise SchemaMismatch(f"the database is newer than this code (it has {max(unknown)}): update kraken-history")
    for migration in wanted:
        if applied.get(migration.name, migration.sha256) != migration.sha256:
            raise SchemaMismatch(
                f"schema/{migration.name} was changed after it was applied: restore the file, and put the"
                " change into a new one"
            )
    return [migration for migration in wanted if migration.name not in applied]


async def _applied(connection: Connection) -> dict[str, str]:
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return {}
    rows = await connection.fetch("SELECT name, sha256 FROM schema_migrations")
    return {row["name"]: row["sha256"] for row in rows}


async def _look_at_server(connection: Connection) -> frozenset[str]:
    if connection.get_server_version().major < 15:
        raise SchemaMismatch("kraken-history needs PostgreSQL 15 or newer")
    if not await _has_timescaledb(connection):
        return frozenset()
    # 'timescale' is the Community edition; the Apache edition has hypertables only.
    licence = await connection.fetchval("SELECT current_setting('timescaledb.license', true)")
    return frozenset({HYPERTABLES, CONTINUOUS_AGGREGATES} if licence == "timescale" else {HYPERTABLES})


async def _has_timescaledb(connection: Connection) -> bool:
    if await connection.fetchval("SELECT true FROM pg_extension WHERE extname = 'timescaledb'"):
        return True
    usable = await connection.fetchval(
        """
        SELECT current_setting('timescaledb.disable_load', true) IS NOT NULL -- it is preloaded
           AND EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
        """
    )
    if not usable:
        return False
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    except asyncpg.InsufficientPrivilegeError as error:
        raise UsageError(
            "the server has TimescaleDB but this user may not create the extension: "
            "have its owner run CREATE EXTENSION timescaledb in this database, then migrate again"
        ) from error
    return True
