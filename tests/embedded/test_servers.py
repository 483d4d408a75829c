"""One command with its servers, in good and in bad times."""

import errno
import os
import shutil
import signal
import socket
import stat
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from redis.asyncio import Redis

from kraken_history.embedded import Servers
from kraken_history.embedded.process import HOST, telling_line
from kraken_history.embedded.valkey import Valkey
from kraken_history.errors import ServiceUnavailable, UsageError

pytestmark = pytest.mark.servers


async def remember(servers: Servers, value: int) -> None:
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute("DROP TABLE IF EXISTS memory")
    await connection.execute("CREATE TABLE memory (value int)")
    await connection.execute("INSERT INTO memory VALUES ($1)", value)
    await connection.close()
    async with Redis.from_url(servers.redis_url) as redis:
        await redis.delete("memory")
        await redis.rpush("memory", value)


async def written(servers: Servers) -> None:
    """Wait until Valkey's memory is in its file: where the disk is busy it answers up to two seconds before."""
    async with Redis.from_url(servers.redis_url) as redis:
        assert await redis.execute_command("WAITAOF", 1, 0, 10_000) == [1, 0]


async def memories(servers: Servers) -> tuple[list[int], list[int]]:
    connection = await asyncpg.connect(servers.database_url)
    rows = await connection.fetch("SELECT value FROM memory ORDER BY 1")
    await connection.close()
    async with Redis.from_url(servers.redis_url) as redis:
        values = await redis.lrange("memory", 0, -1)
    return [row["value"] for row in rows], [int(value) for value in values]


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres/postmaster.pid").read_text().splitlines()[0])


async def test_the_first_start_makes_an_empty_database(new_servers: Servers) -> None:
    servers = Servers(new_servers.data_dir)
    names = ["fsync", "data_checksums", "jit", "shared_buffers", "timezone", "server_encoding", "listen_addresses"]

    with servers.running():
        connection = await asyncpg.connect(servers.database_url)
        settings = [await connection.fetchval("SELECT current_setting($1)", name) for name in names]
        tables = await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        await connection.close()
        async with Redis.from_url(servers.redis_url) as redis:
            policy = await redis.config_get("maxmemory-policy")

    assert settings == ["on", "on", "off", "256MB", "UTC", "UTF8", HOST]
    assert tables == 0
    assert policy == {"maxmemory-policy": "noeviction"}
    assert not servers.is_running()


async def test_a_restart_keeps_data_ports_and_passwords(servers: Servers) -> None:
    with servers.running():
        await remember(servers, 1)
        urls = servers.database_url, servers.redis_url

    with servers.running():
        assert (servers.database_url, servers.redis_url) == urls
        assert await memories(servers) == ([1], [1])


def test_passwords_are_for_the_owner_alone(servers: Servers, data_dir: Path) -> None:
    servers.prepare()

    password = str(urlsplit(servers.redis_url).password)
    assert stat.S_IMODE((data_dir / "servers.json").stat().st_mode) == 0o600
    assert password not in " ".join(servers.valkey_argv())
    assert password not in repr(servers)


async def test_both_ask_for_their_password(servers: Servers) -> None:
    with servers.running():
        database, redis = urlsplit(servers.database_url), urlsplit(servers.redis_url)

        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(host=HOST, port=database.port, user="kraken", password="wrong", database="postgres")
        with socket.create_connection((HOST, redis.port or 0)) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100).startswith(b"-NOAUTH")


def test_preparing_again_changes_nothing(servers: Servers, data_dir: Path) -> None:
    servers.prepare()
    before = (data_dir / "servers.json").read_bytes(), servers.postgres_argv(), servers.valkey_argv()

    servers.prepare()

    assert ((data_dir / "servers.json").read_bytes(), servers.postgres_argv(), servers.valkey_argv()) == before


def test_a_port_taken_by_somebody_else_is_left_to_them(servers: Servers) -> None:
    servers.prepare()
    ports = [urlsplit(url).port for url in (servers.database_url, servers.redis_url)]
    with (
        socket.create_server((HOST, ports[0] or 0)),
        socket.create_server((HOST, ports[1] or 0)),
        servers.running(),
    ):
        moved = [urlsplit(url).port for url in (servers.database_url, servers.redis_url)]

    assert not set(moved) & set(ports)


async def test_killed_servers_start_again_with_their_data_where_they_were(data_dir: Path) -> None:
    """A process that is being killed looks alive for a moment, and then holds its port for another."""
    servers = Servers(data_dir)
    with servers.running():
        await remember(servers, 1)
        await written(servers)
        urls = servers.database_url, servers.redis_url
        os.kill(postmaster(data_dir), signal.SIGKILL)
        os.kill(int((data_dir / "valkey/valkey.pid").read_text()), signal.SIGKILL)

        with servers.running():
            assert (servers.database_url, servers.redis_url) == urls
            assert await memories(servers) == ([1], [1])


def test_a_pid_file_from_before_a_reboot_does_not_prevent_a_start(servers: Servers, data_dir: Path) -> None:
    """PostgreSQL takes any living process of its account for a postmaster, and would refuse to start."""
    servers.prepare()
    owner = (data_dir / "postgres").stat()
    account = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    with subprocess.Popen(["/bin/sleep", "60"], **account) as stranger:  # type: ignore[call-overload]  # a dict is too wide
        lines = f"{stranger.pid}\n{data_dir}/postgres\n1700000000\n5432\n\n{HOST}\n  1 1\nready\n"
        (data_dir / "postgres/postmaster.pid").write_text(lines)
        (data_dir / "valkey/valkey.pid").write_text(str(stranger.pid))

        with servers.running():
            assert servers.is_running()
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the folder of another process is known on Linux only")
def test_a_pid_that_now_belongs_to_another_cluster_does_not_prevent_a_start(
    servers: Servers, data_dir: Path, embedded_servers: Servers
) -> None:
    """After a loss of power, the old number may be that of another PostgreSQL of the same account."""
    servers.prepare()
    stranger = postmaster(embedded_servers.data_dir)
    lines = f"{stranger}\n{data_dir}/postgres\n1700000000\n5432\n\n{HOST}\n  1 1\nready\n"
    (data_dir / "postgres/postmaster.pid").write_text(lines)

    with servers.running():
        assert servers.is_running()
        assert postmaster(data_dir) != stranger
    assert embedded_servers.is_running()


def test_a_path_longer_than_a_socket_allows_works(tmp_path: Path) -> None:
    long = Servers(tmp_path / ("long" * 30) / ("longer" * 20), durable=False)

    with long.running():
        assert long.is_running()


def test_a_postmaster_that_nobody_reaps_does_not_prevent_a_start(servers: Servers, data_dir: Path) -> None:
    """In a container the first process may reap nobody; PostgreSQL then waits for a dead postmaster for ever."""
    servers.prepare()
    with subprocess.Popen(servers.postgres_argv(), stderr=subprocess.DEVNULL, start_new_session=True) as unreaped:
        while not (data_dir / "postgres/postmaster.pid").exists():
            assert unreaped.poll() is None
        unreaped.kill()

        with servers.running():
            assert servers.is_running()


def test_a_cluster_that_was_never_finished_is_made_anew(new_servers: Servers) -> None:
    draft = new_servers.data_dir / "postgres.new-0123"
    (draft / "base").mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n")

    with new_servers.running():
        assert new_servers.is_running()
    assert not draft.exists()


async def test_lost_passwords_are_replaced(servers: Servers, data_dir: Path) -> None:
    with servers.running():
        await remember(servers, 1)
        old = servers.database_url
    (data_dir / "servers.json").unlink()

    with servers.running():
        assert servers.database_url != old
        assert await memories(servers) == ([1], [1])


def test_another_major_version_is_refused(new_servers: Servers) -> None:
    new_servers.prepare()
    (new_servers.data_dir / "postgres/PG_VERSION").write_text("16\n")

    with pytest.raises(UsageError, match="made by PostgreSQL 16, and this is PostgreSQL 18"):
        new_servers.start()


def test_a_server_that_does_not_start_says_why_and_leaves_nothing_running(new_servers: Servers) -> None:
    new_servers.prepare()
    with (new_servers.data_dir / "postgres/postgresql.conf").open("a") as file:
        file.write("shared_buffers = 'plenty'\n")

    with pytest.raises(ServiceUnavailable, match=r"PostgreSQL did not start: .*FATAL.*postgres\.log"):
        new_servers.start()
    assert not (new_servers.data_dir / "valkey/valkey.pid").exists()


def test_a_full_disk_is_named_as_such(new_servers: Servers) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    new_servers.data_dir.mkdir()
    (new_servers.data_dir / "servers.new").symlink_to("/dev/full")

    with pytest.raises(UsageError, match=os.strerror(errno.ENOSPC)):
        new_servers.prepare()


def test_a_data_directory_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UsageError, match=r"cannot use the data directory .*file/data"):
        Servers(tmp_path / "file/data").prepare()


def test_there_is_no_url_before_there_are_servers(new_servers: Servers) -> None:
    with pytest.raises(UsageError, match="no servers in"):
        assert new_servers.database_url
    assert not new_servers.is_running()


def test_stopping_twice_or_before_a_start_is_harmless(servers: Servers) -> None:
    servers.stop()
    servers.start()
    servers.stop()
    servers.stop()

    assert not servers.is_running()


def test_a_strange_server_on_the_port_is_not_taken_for_ours(servers: Servers, new_servers: Servers) -> None:
    new_servers.data_dir.mkdir()
    shutil.copy(servers.data_dir / "servers.json", new_servers.data_dir)
    with servers.running():
        assert servers.is_running()
        assert not new_servers.is_running()


@pytest.mark.parametrize("name", ['it\'s "my" ünusual\\folder', "100%s ;of #it $HOME", "%(here)s", "latin-1 \udce9"])
def test_an_awkward_folder_name_survives_the_configuration(tmp_path: Path, name: str) -> None:
    awkward = Servers(tmp_path / name, durable=False)

    with awkward.running():
        assert awkward.is_running()


def test_a_line_break_in_the_folder_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a data directory without line breaks in its path, got '.*a\\nb'"):
        Servers(tmp_path / "a\nb").prepare()


def test_the_telling_line_of_a_log_is_the_last_that_names_an_error() -> None:
    log = "LOG:  starting\n  FATAL:  could not create any TCP/IP sockets\nLOG:  database system is shut down\n\n"

    assert telling_line(log) == "FATAL:  could not create any TCP/IP sockets"
    assert telling_line("LOG:  starting\n") == "LOG:  starting"
    assert telling_line("") == "it wrote no output"


def test_valkey_flushes_every_second_unless_told_otherwise(tmp_path: Path) -> None:
    configs = []
    for durable in (True, False):
        valkey = Valkey(Path("valkey-server"), tmp_path, port=1, password="x", log=tmp_path / "log", durable=durable)
        valkey.configure()
        configs.append((tmp_path / "valkey.conf").read_text())

    assert "appendfsync everysec" in configs[0]
    assert "appendfsync no" in configs[1]
