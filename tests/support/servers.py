"""Private servers for the tests: started once per session, with one fresh database per test."""

import asyncio
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from kraken_history.embedded.postgres import LAPTOP_SETTINGS, SUPERUSER, Postgres
from kraken_history.embedded.process import HOST, free_port

Flavour = Literal["postgresql", "timescaledb"]
T = TypeVar("T")

TEST_SETTINGS = LAPTOP_SETTINGS | {
    "shared_buffers": "128MB",
    # Its workers would keep the templates in use, and query plans would depend on when they ran.
    "autovacuum": "off",
}
TIMESCALEDB_SETTINGS = TEST_SETTINGS | {
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    # Policies run only when a test runs them. Most tests write trades that are old enough to be compressed at the same
    # time, which causes a deadlock now and then. Services try again; a test that writes by itself does not.
    "timescaledb.max_background_workers": "0",
    "max_worker_processes": "16",
}


class Background:
    """An event loop in a thread of its own, for fixtures that are not asynchronous.

    The loop of a test that requests the fixture is not touched.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fixtures", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run to the end and return the result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        """Stop the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class DatabaseServer:
    """A server on which databases come and go.

    Args:
        flavour: The kind of server.
        url: URL of a superuser, for a database that is never dropped.
    """

    def __init__(self, flavour: Flavour, url: str, background: Background) -> None:
        self.flavour = flavour
        self._url = url
        self._background = background
        self._admin: asyncpg.Connection[asyncpg.Record] | None = None
        self._migrated: str | None = None

    def create_database(self, *, template: str = "template0") -> str:
        """Make a database under a new name and return its URL."""
        name = f"test_{secrets.token_hex(6)}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url_of(name)

    def create_migrated_database(self) -> str:
        """Make a copy of a database that has been migrated once; return its URL."""
        if self._migrated is None:
            self._migrated = self._create_template()
        return self.create_database(template=self._migrated)

    def drop_database(self, url: str) -> None:
        """Drop a database, even while clients are connected."""
        self._execute(f'DROP DATABASE IF EXISTS "{urlsplit(url).path[1:]}" WITH (FORCE)')

    def url_of(self, database: str) -> str:
        """The URL of one of the server's databases."""
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{database}", query=""))

    def close(self) -> None:
        """Leave the server."""
        if self._admin is not None:
            self._background.run(self._admin.close())

    def _create_template(self) -> str:
        from kraken_history.database.migrations import migrate

        url = self.create_database()
        name = urlsplit(url).path[1:]
        self._background.run(migrate(url))
        # The source of a copy must have no connections. TimescaleDB's launcher keeps a scheduler in
        # every database that accepts connections, and skips one that does not.
        self._execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        while self._terminate_clients(name):
            time.sleep(0.01)
        return name

    def _terminate_clients(self, database: str) -> int:
        async def terminate() -> int:
            admin = await self._connection()
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
            return len(await admin.fetch(query, database))

        return self._background.run(terminate())

    def _execute(self, statement: str) -> None:
        async def execute() -> None:
            await (await self._connection()).execute(statement)

        self._background.run(execute())

    async def _connection(self) -> "asyncpg.Connection[asyncpg.Record]":
        if self._admin is None:
            self._admin = await asyncpg.connect(self._url)
        return self._admin


class TimescaleCluster:
    """A private cluster of the machine's own PostgreSQL, with TimescaleDB.

    Args:
        durable: False trades the safety of the data for speed.
    """

    def __init__(self, bin_dir: Path, folder: Path, *, durable: bool = False) -> None:
        self._password = secrets.token_hex(16)
        self._postgres = Postgres(
            bin_dir, folder / "timescaledb", port=free_port(), log=folder / "timescaledb.log", durable=durable
        )

    @property
    def url(self) -> str:
        """The URL of the superuser."""
        return f"postgresql://{SUPERUSER}:{self._password}@{HOST}:{self._postgres.port}/postgres"

    def start(self) -> None:
        """Make and start it."""
        self._postgres.create(password=self._password, database="kraken_history", settings=TIMESCALEDB_SETTINGS)
        self._postgres.start(60)

    def stop(self) -> None:
        """Stop it."""
        self._postgres.stop(60)


def timescaledb_bin_dir() -> Path | None:
    """The programs of an installed PostgreSQL that has TimescaleDB, the newest first."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name, reverse=True)
    for pg_config in [shutil.which("pg_config"), *(str(path / "pg_config") for path in installed)]:
        if pg_config is None or not Path(pg_config).is_file():
            continue
        bin_dir, share_dir = _ask(pg_config, "--bindir"), _ask(pg_config, "--sharedir")
        if (share_dir / "extension/timescaledb.control").is_file() and (bin_dir / "initdb").is_file():
            return bin_dir
    return None


def _ask(pg_config: str, question: str) -> Path:
    return Path(subprocess.run([pg_config, question], capture_output=True, text=True, check=True).stdout.strip())
