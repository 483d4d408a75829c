"""Migrations on a real server: once each, whoever runs them, and never half."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest
from msgspec.structs import replace

from kraken_history.database.migrations import (
    Migration,
    check_schema,
    kept_capabilities,
    migrate,
    parse_migration,
    read_migrations,
)
from kraken_history.errors import SchemaMismatch, ServiceUnavailable
from tests.support.servers import DatabaseServer

FILES = {
    "postgresql": ["0001_core.sql", "0002_partitions.sql", "0003_aggregate_tables.sql"],
    "timescaledb": [
        "0001_core.sql", "0002_hypertables.sql", "0003_continuous_aggregates.sql", "0004_compression.sql",
    ],
}  # fmt: skip
CAPABILITIES = {"postgresql": frozenset(), "timescaledb": frozenset({"hypertables", "continuous_aggregates"})}


def with_more(*files: tuple[str, str]) -> list[Migration]:
    return [*read_migrations(), *(parse_migration(name, sql) for name, sql in files)]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """To a database without any schema."""
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def migrated(migrated_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(migrated_database_url)
    yield opened
    await opened.close()


async def applied(connection: asyncpg.Connection) -> list[str]:
    return [row["name"] for row in await connection.fetch("SELECT name FROM schema_migrations ORDER BY name")]


async def test_a_new_database_gets_what_its_server_can_have(
    database_url: str, connection: asyncpg.Connection, database_server: DatabaseServer
) -> None:
    first = await migrate(database_url)
    second = await migrate(database_url)

    files = [name for name in FILES[database_server.flavour] if name in {m.name for m in read_migrations()}]
    assert first[: len(files)] == files
    assert second == []
    assert await applied(connection) == first
    assert await kept_capabilities(connection) == CAPABILITIES[database_server.flavour]
    await check_schema(connection)


async def test_four_tasks_at_once_apply_each_file_once(database_url: str, connection: asyncpg.Connection) -> None:
    done = await asyncio.gather(*(migrate(database_url) for _ in range(4)))

    assert sorted(map(bool, done)) == [False, False, False, True]
    assert await applied(connection) == [name for names in done for name in names]


async def test_four_processes_at_once_apply_each_file_once(database_url: str, connection: asyncpg.Connection) -> None:
    run = "print(len(asyncio.run(migrate(os.environ['URL']))))"
    code = f"import asyncio, os; from kraken_history.database.migrations import migrate; {run}"
    processes = [
        subprocess.Popen(  # noqa: ASYNC220 — four at once, and nothing else to do meanwhile
            [sys.executable, "-c", code], env=os.environ | {"URL": database_url}, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    answers = sorted(int(process.communicate(timeout=60)[0]) for process in processes)

    assert answers == [0, 0, 0, len(await applied(connection))]
    await check_schema(connection)


async def test_an_applied_file_that_was_changed_is_refused(migrated_database_url: str) -> None:
    first, *rest = read_migrations()

    with pytest.raises(SchemaMismatch, match=r"0001_core\.sql was changed after it was applied"):
        await migrate(migrated_database_url, migrations=[replace(first, sha256="0" * 64), *rest])


async def test_a_database_whose_record_of_a_file_differs_is_refused_by_services(migrated: asyncpg.Connection) -> None:
    await migrated.execute("UPDATE schema_migrations SET sha256 = 'other' WHERE name = '0001_core.sql'")

    with pytest.raises(SchemaMismatch, match="changed after it was applied"):
        await check_schema(migrated)


async def test_a_database_newer_than_the_code_is_refused(
    migrated_database_url: str, migrated: asyncpg.Connection
) -> None:
    await migrated.execute(
        "INSERT INTO schema_migrations (name, version, sha256, capabilities) VALUES ('9999_later.sql', 9999, 'x', '{}')"
    )

    with pytest.raises(SchemaMismatch, match=r"newer than this code.*9999_later\.sql.*update"):
        await migrate(migrated_database_url)
    with pytest.raises(SchemaMismatch, match="newer than this code"):
        await check_schema(migrated)


async def test_a_database_older_than_the_code_is_refused_by_services(
    database_url: str, connection: asyncpg.Connection
) -> None:
    await migrate(database_url, migrations=read_migrations()[:1])

    with pytest.raises(SchemaMismatch, match=r"older than this code.*lacks 0002_\w+.sql.*kraken-history migrate"):
        await check_schema(connection)

    assert (await migrate(database_url))[0].startswith("0002_")
    await check_schema(connection)


async def test_a_database_without_a_schema_is_refused_by_services(connection: asyncpg.Connection) -> None:
    with pytest.raises(SchemaMismatch, match="no schema yet: run `kraken-history migrate`"):
        await check_schema(connection)


CONCURRENT_INDEX = "CREATE INDEX CONCURRENTLY idx_made_later ON backtest_runs (created_at);\n"


async def test_a_file_that_says_so_runs_outside_of_a_transaction(
    migrated_database_url: str, migrated: asyncpg.Connection
) -> None:
    wanted = with_more(("9000_index.sql", f"-- migrate: no-transaction\n-- What it is for.\n{CONCURRENT_INDEX}"))

    assert await migrate(migrated_database_url, migrations=wanted) == ["9000_index.sql"]
    assert await migrate(migrated_database_url, migrations=wanted) == []
    assert await migrated.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'idx_made_later'::regclass")


async def test_processes_that_wait_do_not_hold_up_an_index_made_concurrently(
    migrated_database_url: str, migrated: asyncpg.Connection
) -> None:
    """A waiter inside pg_advisory_lock() would: CREATE INDEX CONCURRENTLY waits for every older statement."""
    wanted = with_more(("9000_index.sql", f"-- migrate: no-transaction\n{CONCURRENT_INDEX}"))

    async with asyncio.timeout(30):
        done = await asyncio.gather(*(migrate(migrated_database_url, migrations=wanted) for _ in range(3)))

    assert sorted(done) == [[], [], ["9000_index.sql"]]


async def test_any_other_file_runs_inside_of_one(migrated_database_url: str, migrated: asyncpg.Connection) -> None:
    wanted = with_more(("9000_index.sql", CONCURRENT_INDEX))

    with pytest.raises(SchemaMismatch, match=r"9000_index\.sql could not be applied.*transaction block"):
        await migrate(migrated_database_url, migrations=wanted)

    assert await migrated.fetchval("SELECT to_regclass('idx_made_later')") is None


async def test_a_file_that_fails_leaves_nothing_behind(
    migrated_database_url: str, migrated: asyncpg.Connection
) -> None:
    before = await applied(migrated)
    wanted = with_more(
        ("9000_good.sql", "CREATE TABLE good (a int);"),
        ("9001_bad.sql", "CREATE TABLE half (a int);\nSELECT 1 / 0;"),
        ("9002_never.sql", "CREATE TABLE never (a int);"),
    )

    with pytest.raises(SchemaMismatch, match=r"9001_bad\.sql could not be applied: division by zero"):
        await migrate(migrated_database_url, migrations=wanted)

    tables = [await migrated.fetchval("SELECT to_regclass($1) IS NOT NULL", name) for name in ("good", "half", "never")]
    assert tables == [True, False, False]
    assert await applied(migrated) == [*before, "9000_good.sql"]


async def test_a_file_that_was_put_right_goes_on_where_it_failed(migrated_database_url: str) -> None:
    bad, good = ("9000_a.sql", "SELECT 1 / 0;"), ("9000_a.sql", "CREATE TABLE a (a int);")
    with pytest.raises(SchemaMismatch):
        await migrate(migrated_database_url, migrations=with_more(bad))

    assert await migrate(migrated_database_url, migrations=with_more(good)) == ["9000_a.sql"]


async def test_who_waits_too_long_is_told_to_try_again(database_url: str) -> None:
    let_go = asyncio.Event()
    holds = asyncio.create_task(migrate_slowly(database_url, let_go))
    await until_the_lock_is_held(database_url)

    with pytest.raises(ServiceUnavailable, match="another process still holds the migration lock"):
        await migrate(database_url, lock_timeout_s=0.1)

    let_go.set()
    await holds


async def migrate_slowly(database_url: str, let_go: asyncio.Event) -> None:
    sleeping = asyncio.create_task(
        migrate(database_url, migrations=[parse_migration("0001_slow.sql", "SELECT pg_sleep(600)")])
    )
    await let_go.wait()
    sleeping.cancel()
    await asyncio.gather(sleeping, return_exceptions=True)


async def until_the_lock_is_held(database_url: str) -> None:
    watcher: asyncpg.Connection = await asyncpg.connect(database_url)
    query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"
    async with asyncio.timeout(10):
        while not await watcher.fetchval(query):  # noqa: ASYNC110 — the server has no event to wait for
            await asyncio.sleep(0.01)
    await watcher.close()


async def test_files_of_the_other_kind_of_server_are_passed_over(
    migrated_database_url: str, migrated: asyncpg.Connection, database_server: DatabaseServer
) -> None:
    wanted = with_more(
        ("9000_with.sql", "-- migrate: if hypertables\nSELECT 1;"),
        ("9001_without.sql", "-- migrate: unless hypertables\nSELECT 1;"),
    )

    done = await migrate(migrated_database_url, migrations=wanted)

    assert done == (["9001_without.sql"] if database_server.flavour == "postgresql" else ["9000_with.sql"])
