"""Databases as people rent them: TLS, awkward passwords, few rights, few connections, time-outs of the server."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import pytest

from kraken_history.database.connections import connect, create_pool
from kraken_history.database.migrations import migrate
from kraken_history.embedded.accounts import server_account
from kraken_history.embedded.postgres import SUPERUSER, Postgres
from kraken_history.embedded.process import free_port
from kraken_history.errors import ServiceUnavailable, UsageError
from kraken_history.provider import HistoricalDataProvider
from kraken_history.storing.store import Store
from tests.support.command import Run
from tests.support.neighbours import certificates, program
from tests.support.records import NOON, trades
from tests.support.servers import TEST_SETTINGS, Background
from tests.support.services import CONSUMER, WORKER, Service

pytestmark = pytest.mark.servers
plain_only = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
timescaledb_only = pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)

PASSWORD = "p@:/%#?&=[]+ x"


@pytest.fixture
async def admin(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """The superuser, who removes the roles of a test."""
    connection = await asyncpg.connect(database_url)
    await _drop_roles(connection)
    yield connection
    await _drop_roles(connection)
    await connection.close()


async def _drop_roles(connection: asyncpg.Connection) -> None:
    for role in ("rented_owner", "rented_other"):
        if await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role):
            await connection.execute(
                f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}"
            )


async def make_owner(admin: asyncpg.Connection, database_url: str) -> str:
    """Make a user who owns the database, and may make neither roles nor extensions; gives its URL."""
    parts = urlsplit(database_url)
    await admin.execute(f"CREATE ROLE rented_owner LOGIN PASSWORD '{PASSWORD}'")
    await admin.execute(f'ALTER DATABASE "{parts.path[1:]}" OWNER TO rented_owner')
    await admin.execute(
        """
        DO $$ BEGIN
            CREATE ROLE kraken_reader NOLOGIN; CREATE ROLE kraken_writer NOLOGIN;
        EXCEPTION WHEN duplicate_object THEN NULL;
        END $$
        """
    )
    return url_of(database_url, "rented_owner", PASSWORD)


def url_of(database_url: str, user: str, password: str) -> str:
    """The URL of the same database for another user."""
    parts = urlsplit(database_url)
    account = f"{user}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{account}@{parts.hostname}:{parts.port}"))


@plain_only
async def test_a_plain_owner_migrates_stores_and_reads(admin: asyncpg.Connection, database_url: str) -> None:
    url = await make_owner(admin, database_url)

    assert await migrate(url)
    async with await create_pool(url, min_size=1, max_size=1) as pool:
        assert (await Store(pool).write(trades(range(1, 20)))).new_trades == 19
    async with HistoricalDataProvider(url, 1, 1) as provider:
        assert len(await provider.get_trades("BTC/USDT", NOON, trades([30])[0].timestamp, gaps="ignore")) == 19
        assert (
            await provider.get_candles_arrow("BTC/USDT", 1, NOON, trades([30])[0].timestamp, gaps="ignore")
        ).num_rows


@plain_only
async def test_time_outs_of_the_server_are_kept_and_do_no_harm(admin: asyncpg.Connection, database_url: str) -> None:
    url = await make_owner(admin, database_url)
    for setting in ("statement_timeout = '20s'", "idle_in_transaction_session_timeout = '5s'", "lock_timeout = '5s'"):
        await admin.execute(f"ALTER ROLE rented_owner SET {setting}")

    assert await migrate(url)
    async with await create_pool(url, min_size=1, max_size=1) as pool:
        assert await pool.fetchval("SHOW statement_timeout") == "20s"
        assert (await Store(pool).write(trades(range(1, 20)))).new_trades == 19


@plain_only
async def test_too_few_connections_are_one_line_that_says_so(admin: asyncpg.Connection, database_url: str) -> None:
    url = await make_owner(admin, database_url)
    await admin.execute("ALTER ROLE rented_owner CONNECTION LIMIT 3")
    assert await migrate(url)
    taken = [await connect(url) for _ in range(3)]

    with pytest.raises(ServiceUnavailable, match=r"has no free connection .*: wait until others end"):
        await connect(url)
    with pytest.raises(ServiceUnavailable, match="has no free connection"):
        await create_pool(url, min_size=1, max_size=1)

    for connection in taken:
        await connection.close()


@plain_only
async def test_services_say_which_user_they_need(
    admin: asyncpg.Connection, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    # A consumer and a worker with the URL of a reader ended with a traceback at their first work.
    await migrate(database_url)
    await admin.execute("CREATE ROLE rented_other LOGIN PASSWORD 'x' IN ROLE kraken_reader")
    url = url_of(database_url, "rented_other", "x")

    for arguments, expected in [(CONSUMER, "a user in kraken_writer"), (WORKER, f"their owner, {SUPERUSER}")]:
        log = tmp_path / f"{arguments[1]}.log"
        with Service(arguments, log, {"DATABASE_URL": url, "REDIS_URL": redis_url}) as service:
            assert service.wait() == 2, service.output
        assert f"expected DATABASE_URL of {expected}" in service.output
        assert "Traceback" not in service.output


@plain_only
async def test_a_user_without_any_right_is_told_so(admin: asyncpg.Connection, database_url: str) -> None:
    await admin.execute("CREATE ROLE rented_other LOGIN PASSWORD 'x'")
    url = url_of(database_url, "rented_other", "x")

    with pytest.raises(UsageError, match=r"permission denied.*: expected DATABASE_URL of the owner"):
        await migrate(url)
    await migrate(database_url)
    with pytest.raises(UsageError, match=r"permission denied.*: expected DATABASE_URL of a user in kraken_reader"):
        async with HistoricalDataProvider(url, 1, 1):
            pass
    with pytest.raises(UsageError, match=r"permission denied.*: expected DATABASE_URL of the owner"):
        await migrate(url)


@timescaledb_only
def test_an_extension_that_is_older_than_its_library_is_one_line_with_the_cure(
    migrated_database_url: str, command: Run, background: Background
) -> None:
    """After an upgrade of the package, the loader looks for the library of the old version."""
    background.run(_forge_version(migrated_database_url))

    for arguments in (["migrate"], ["candles", "BTC/USDT"], ["export", "BTC/USDT"]):
        outcome = command(*arguments, DATABASE_URL=migrated_database_url)
        assert outcome.code == 2
        assert "ALTER EXTENSION timescaledb UPDATE" in outcome.err
        assert outcome.err.count("\n") == 1


async def _forge_version(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE pg_extension SET extversion = '2.0.99' WHERE extname = 'timescaledb'")
    await connection.close()


@plain_only
@pytest.mark.parametrize("arguments", ["?sslmode=require", "?sslmode=verify-full&sslrootcert=system"])
async def test_a_server_without_tls_is_called_that(database_url: str, arguments: str) -> None:
    """It was said not to answer, and to be started."""
    with pytest.raises(UsageError, match=r"offers no TLS: turn TLS on there, or use sslmode=prefer in DATABASE_URL"):
        await connect(database_url + arguments)


class _TlsServer:
    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.authority = folder / "ca.crt"

    def url(self, arguments: str, *, host: str = "localhost") -> str:
        return f"postgresql://{SUPERUSER}:{quote(PASSWORD, safe='')}@{host}:{self.port}/history{arguments}"


@pytest.fixture(scope="module")
def tls_server(servers_folder: Path) -> Iterator[_TlsServer]:
    """Debian's PostgreSQL, which takes connections over TLS only."""
    bin_dir = Path(program("/usr/lib/postgresql/15/bin/postgres")).parent
    folder = servers_folder / "tls"
    with certificates() as made:
        server = Postgres(bin_dir, folder, port=free_port(), log=servers_folder / "tls.log", durable=False)
        server.create(password=PASSWORD, database="history", settings=TEST_SETTINGS | {"ssl": "on"})
        for name in ("server.crt", "server.key"):
            shutil.copy(made / name, folder / name)
            if (account := server_account(folder)) is not None:
                shutil.chown(folder / name, account.uid, account.gid)
            (folder / name).chmod(0o600)
        hosts = ("host postgres", "hostssl history")  # the first is for the question whether it is up
        (folder / "pg_hba.conf").write_text("".join(f"{each} all 127.0.0.1/32 scram-sha-256\n" for each in hosts))
        server.start(60)
        yield _TlsServer(server.port, made)
        server.stop(60)


async def test_tls_is_chosen_by_the_url_for_both_drivers(tls_server: _TlsServer) -> None:
    trusted = f"sslrootcert={quote(str(tls_server.authority), safe='')}"
    await migrate(tls_server.url("?sslmode=require&channel_binding=prefer&connect_timeout=5"))

    for arguments in ("", "?sslmode=require", f"?sslmode=verify-ca&{trusted}", f"?sslmode=verify-full&{trusted}"):
        url = tls_server.url(arguments)
        connection = await connect(url)
        assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        await connection.close()
        async with HistoricalDataProvider(url, 1, 1) as provider:
            assert await provider.get_symbols() in ([], ["BTC/USDT"])
            await Store(provider._database.pool).write(trades(range(1, 3)))
            assert (
                await provider.get_candles_arrow("BTC/USDT", 1, NOON, trades([9])[0].timestamp, gaps="ignore")
            ).num_rows


@pytest.mark.parametrize(
    ("arguments", "host", "said"),
    [
        ("?sslmode=disable", "localhost", "no encryption"),
        ("?sslmode=verify-full&sslrootcert=system", "localhost", "is not trusted"),
        ("?sslmode=verify-full&sslrootcert={ca}", "127.0.0.1", "is not trusted"),
        ("?sslmode=verify-full&sslrootcert=/nowhere.crt", "localhost", "sslrootcert does not exist"),
        ("?sslmode=maybe", "localhost", "sslmode"),
    ],
)
async def test_tls_that_cannot_be_is_one_line(tls_server: _TlsServer, arguments: str, host: str, said: str) -> None:
    url = tls_server.url(arguments.format(ca=quote(str(tls_server.authority), safe="")), host=host)

    with pytest.raises(UsageError, match=said) as refusal:
        await connect(url)

    assert "\n" not in str(refusal.value)
    assert PASSWORD not in str(refusal.value)
