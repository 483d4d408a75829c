"""Connections to PostgreSQL, and its driver's errors in our words."""

import asyncio
import subprocess
import sys
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from kraken_history.database.connections import connect, connection_error, create_pool
from kraken_history.database.failures import is_transient
from kraken_history.errors import HistoryError, ServiceUnavailable, UsageError
from kraken_history.urls import without_password

plain_only = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


async def refusal_of(url: str) -> HistoryError:
    with pytest.raises(HistoryError) as alone:
        await connect(url)
    with pytest.raises(type(alone.value)) as pooled:
        await create_pool(url, min_size=1, max_size=1)

    assert str(pooled.value) == str(alone.value)
    password = urlsplit(url).password if "://" in url and "[" not in url else None
    assert password is None or password not in str(alone.value)
    return alone.value


async def test_a_server_that_is_there_is_connected_to(database_url: str) -> None:
    connection = await connect(database_url)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


@plain_only
async def test_a_database_that_is_not_there_is_named(database_url: str) -> None:
    url = urlunsplit(urlsplit(database_url)._replace(path="/nowhere"))

    error = await refusal_of(url)

    assert isinstance(error, UsageError)
    assert 'database "nowhere" does not exist' in str(error)
    assert "correct DATABASE_URL" in str(error)


@plain_only
async def test_a_wrong_password_is_the_users_to_correct(database_url: str) -> None:
    parts = urlsplit(database_url)
    url = urlunsplit(parts._replace(netloc=f"{parts.username}:hunter2@{parts.hostname}:{parts.port}"))

    error = await refusal_of(url)

    assert isinstance(error, UsageError)
    assert "correct user and password" in str(error)


async def test_a_server_that_is_down_may_come_back() -> None:
    error = await refusal_of("postgresql://me:hunter2@127.0.0.1:9/name")

    assert isinstance(error, ServiceUnavailable)
    assert "no database answers at 127.0.0.1:9/name" in str(error)


@pytest.mark.parametrize("url", ["nonsense", "mysql://me@host/name", "postgresql://me@host:port/name"])
async def test_a_url_that_is_none_says_what_one_looks_like(url: str) -> None:
    error = await refusal_of(url)

    assert isinstance(error, UsageError)
    assert "postgresql://user:password@host:5432/name" in str(error)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:hunter2@host:5432/name", "host:5432/name"),
        ("postgresql://me:p@ss@host/name?password=hunter2", "host/name"),
        ("postgresql://host/name", "host/name"),
    ],
)
def test_a_message_shows_the_url_from_the_host_on(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ServiceUnavailable("down"), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (asyncpg.ConnectionDoesNotExistError("gone"), True),
        (asyncpg.AdminShutdownError("restarting"), True),
        (asyncpg.CannotConnectNowError("starting up"), True),
        (asyncpg.TooManyConnectionsError("full"), True),
        (asyncpg.DeadlockDetectedError("deadlock"), True),
        (asyncpg.SerializationError("again"), True),
        (asyncpg.DiskFullError("disk"), True),
        (asyncpg.OutOfMemoryError("out of shared memory"), True),
        (asyncpg.ProgramLimitExceededError("too many notifications in the NOTIFY queue"), True),
        (asyncpg.ReadOnlySQLTransactionError("a standby"), True),
        (asyncpg.IdleInTransactionSessionTimeoutError("lost"), True),
        (asyncpg.TransactionTimeoutError("too long"), True),
        (asyncpg.IdleSessionTimeoutError("idle"), True),
        (asyncpg.PostgresIOError("disk"), True),
        (asyncpg.InternalServerError("tuple concurrently updated"), True),
        (asyncpg.InvalidCachedStatementError("cached plan must not change result type"), True),
        (asyncpg.InterfaceError("connection is closed"), True),
        (asyncpg.ConfigurationLimitExceededError("tuple decompression limit"), False),
        (asyncpg.InsufficientPrivilegeError("may not"), False),
        (asyncpg.DataError("invalid"), False),
        (asyncpg.CharacterNotInRepertoireError("nul"), False),
        (asyncpg.CheckViolationError("side"), False),
        (asyncpg.UndefinedTableError("trades"), False),
        (UsageError("wrong"), False),
        (ValueError("five minutes"), False),
        (KeyError("a bug"), False),
    ],
)
def test_an_error_is_transient_if_the_same_write_may_succeed_later(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


def test_a_server_that_gives_a_connection_up_may_take_the_next() -> None:
    for error in (asyncpg.QueryCanceledError("statement timeout"), asyncpg.SerializationError("conflict")):
        assert isinstance(connection_error(error, "postgresql://host/name"), ServiceUnavailable)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            PermissionError(13, "Permission denied", "/root/.postgresql/postgresql.key"),
            "no permission to read /root/.post",
        ),
        (KeyError("getpwuid(): uid not found: 12345"), "has no user: add the user to it"),
        (OSError("No username set in the environment"), "has no user: add the user to it"),
    ],
)
def test_trouble_with_the_account_is_not_called_a_dead_database(error: Exception, words: str) -> None:
    translated = connection_error(error, "postgresql://host/name")

    assert isinstance(translated, UsageError)
    assert words in str(translated)


@plain_only
@pytest.mark.parametrize(
    ("configured", "lines"), [(False, 0), (True, 1)], ids=["by default", "where logging is set up"]
)
async def test_a_server_that_is_away_is_logged_in_one_line_where_logging_is_set_up(
    configured: bool, lines: int, database_url: str
) -> None:
    code = f"""
import asyncio, logging, sys
from kraken_history.database.connections import create_pool
from tests.support.proxy import Proxy

async def main():
    told = asyncio.Event()
    logging.getLogger("asyncpg.pool").addFilter(lambda record: told.set() or True)
    async with Proxy(sys.argv[1]) as proxy:
        pool = await create_pool(proxy.url, min_size=1, max_size=1)
        await proxy.cut()
        await told.wait()
        pool.terminate()

if {configured}:
    logging.basicConfig()
asyncio.run(main())
"""
    command = [sys.executable, "-c", code, database_url]
    ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=False)

    assert (ran.returncode, ran.stderr.count("\n")) == (0, lines), ran.stderr
    assert ran.stdout == ""
