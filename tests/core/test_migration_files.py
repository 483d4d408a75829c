"""Reading schema/*.sql: names and directives, without a server."""

import hashlib
from pathlib import Path

import pytest

from kraken_history.database.migrations import CONTINUOUS_AGGREGATES, HYPERTABLES, parse_migration, read_migrations
from kraken_history.errors import UsageError

APACHE = frozenset({HYPERTABLES})
COMMUNITY = frozenset({HYPERTABLES, CONTINUOUS_AGGREGATES})


def test_a_plain_file_is_one_transaction_for_every_server() -> None:
    migration = parse_migration("0007_what.sql", "SELECT 1;\n")

    assert (migration.version, migration.name, migration.in_transaction) == (7, "0007_what.sql", True)
    assert all(migration.fits(server) for server in (frozenset(), APACHE, COMMUNITY))
    assert migration.sha256 == hashlib.sha256(b"SELECT 1;\n").hexdigest()


def test_directives_at_the_head_say_where_and_how() -> None:
    sql = "-- migrate: if hypertables\n-- migrate: unless continuous_aggregates\n-- migrate: no-transaction\nSELECT 1\n"

    migration = parse_migration("0002_what.sql", sql)

    assert not migration.in_transaction
    assert [migration.fits(server) for server in (frozenset(), APACHE, COMMUNITY)] == [False, True, False]


def test_a_directive_below_the_head_is_a_comment() -> None:
    assert parse_migration("0001_a.sql", "-- What it does.\n-- migrate: no-transaction\nSELECT 1").in_transaction


@pytest.mark.parametrize(
    "line",
    [
        "-- migrate: no-transactions",
        "-- migrate: if",
        "-- migrate: when hypertables",
        "-- migrate: unless a b",
        "-- migrate: if hypertable",
    ],
)
def test_a_directive_that_does_not_exist_is_refused_by_name(line: str) -> None:
    with pytest.raises(UsageError, match=r"0001_a\.sql: unknown directive") as refusal:
        parse_migration("0001_a.sql", f"{line}\nSELECT 1")

    assert line in str(refusal.value)


@pytest.mark.parametrize("name", ["1_a.sql", "0001.sql", "0001_a.txt", "0001-a.sql", "x0001_a.sql"])
def test_a_file_that_is_not_named_like_a_migration_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"expected a file name like 0001_what\.sql"):
        parse_migration(name, "SELECT 1")


def test_files_are_read_in_their_order(tmp_path: Path) -> None:
    for name in ("0010_b.sql", "0002_c.sql", "0002_a.sql", "notes.txt"):
        (tmp_path / name).write_text("SELECT 1")

    assert [migration.name for migration in read_migrations(tmp_path)] == ["0002_a.sql", "0002_c.sql", "0010_b.sql"]


def test_each_kind_of_server_gets_one_of_each_pair_of_flavours() -> None:
    migrations = read_migrations()

    for server in (frozenset(), APACHE, COMMUNITY):
        fitting = {migration.name for migration in migrations if migration.fits(server)}
        assert "0001_core.sql" in fitting
        assert len(fitting & {"0002_hypertables.sql", "0002_partitions.sql"}) == 1
        assert len(fitting & {"0003_continuous_aggregates.sql", "0003_aggregate_tables.sql"}) == 1


def test_no_two_files_that_a_server_gets_share_a_version() -> None:
    for server in (frozenset(), APACHE, COMMUNITY):
        versions = [migration.version for migration in read_migrations() if migration.fits(server)]
        assert len(versions) == len(set(versions))
