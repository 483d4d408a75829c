"""Servers that a test kills, freezes and fills."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil

from kraken_history.database.migrations import migrate
from kraken_history.embedded.binaries import find_binaries
from kraken_history.embedded.postgres import SUPERUSER, Postgres
from kraken_history.embedded.process import HOST, Server, free_port
from kraken_history.embedded.valkey import Valkey
from tests.support.servers import TEST_SETTINGS, TIMESCALEDB_SETTINGS, Flavour, timescaledb_bin_dir

_START_S = 60.0
_DATABASE = "kraken_history"


class NotHereError(Exception):
    """This machine lacks something that a scenario needs; the message says what."""


class _Killable:
    """Signals to all processes of a server."""

    server: Server

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        await asyncio.to_thread(self.server.start, _START_S)

    async def stop(self) -> None:
        """Stop it cleanly."""
        self.thaw()
        await asyncio.to_thread(self.server.stop, _START_S)

    async def kill(self) -> None:
        """SIGKILL to all of its processes."""
        processes = self._processes()
        self._signal(signal.SIGKILL)
        await asyncio.to_thread(psutil.wait_procs, processes, 10)

    def freeze(self) -> None:
        """SIGSTOP to all of its processes."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT to all of its processes."""
        self._signal(signal.SIGCONT)

    def _processes(self) -> list[psutil.Process]:
        pid = self.server.pid()
        if pid is None:
            return []
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(pid)
            return [main, *main.children(recursive=True)]
        return []

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


class RedisServer(_Killable):
    """A Valkey of the wheels, which writes each command to its append-only file."""

    def __init__(self, folder: Path, password: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder / "data"
        self.password = password or secrets.token_hex(8)
        program = find_binaries().valkey_server
        self.server: Valkey = Valkey(
            program, self.folder, port=free_port(), password=self.password, log=folder / "log", durable=False
        )
        self.server.configure()

    @property
    def port(self) -> int:
        """Its port."""
        return self.server.port

    def url(self, port: int | None = None) -> str:
        """Its URL, or that through a line."""
        return f"redis://:{quote(self.password)}@{HOST}:{port or self.port}/0"

    def lose_data(self) -> None:
        """Delete its files, while it is down."""
        shutil.rmtree(self.folder)
        self.server.configure()


class Database(_Killable):
    """A cluster of PostgreSQL."""

    def __init__(
        self, flavour: Flavour, folder: Path, settings: Mapping[str, str] | None = None, password: str | None = None
    ) -> None:
        self.flavour = flavour
        self.folder = folder
        self.password = password or secrets.token_hex(8)
        self.server: Postgres = Postgres(_bin_dir(flavour), folder / "data", port=free_port(), log=folder / "log")
        self._settings = dict(TIMESCALEDB_SETTINGS if flavour == "timescaledb" else TEST_SETTINGS)
        self._settings |= settings or {}
        self._has_template = False

    @property
    def port(self) -> int:
        """Its port."""
        return self.server.port

    def url(self, name: str, port: int | None = None) -> str:
        """The URL of a database, or that through a line."""
        return f"postgresql://{SUPERUSER}:{self.password}@{HOST}:{port or self.port}/{name}?sslmode=disable"

    async def create(self) -> None:
        """Make the cluster and start it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o711)
        await asyncio.to_thread(self.server.create, password=self.password, database=_DATABASE, settings=self._settings)
        await self.start()

    async def new_database(self) -> str:
        """Make a database with the whole schema; its name."""
        if not self._has_template:
            await self.execute("CREATE DATABASE template_migrated TEMPLATE template0")
            await migrate(self.url("template_migrated"))
            await self.execute("ALTER DATABASE template_migrated ALLOW_CONNECTIONS false")
            self._has_template = True
        name = f"faults_{secrets.token_hex(4)}"
        await self._copy_template(name)
        return name

    async def _copy_template(self, name: str) -> None:
        for _ in range(50):
            await self.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'template_migrated'"
            )
            with suppress(asyncpg.ObjectInUseError):
                return await self.execute(f"CREATE DATABASE {name} TEMPLATE template_migrated")
            await asyncio.sleep(0.1)
        raise AssertionError("the template stays in use")

    async def drop_database(self, name: str) -> None:
        """Drop a database, even while clients are connected."""
        await self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the superuser, past all lines."""
        connection = await asyncpg.connect(self.url(database))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


def _bin_dir(flavour: Flavour) -> Path:
    if flavour == "postgresql":
        return find_binaries().postgres_bin
    found = timescaledb_bin_dir()
    if found is None:
        raise NotHereError("no PostgreSQL with TimescaleDB is installed")
    return found


class Fleet:
    """The databases of a run: one cluster for each flavour and each set of settings, made at first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._databases: dict[tuple[str, tuple[tuple[str, str], ...]], Database] = {}

    async def database(self, flavour: Flavour, settings: Mapping[str, str]) -> Database:
        """A running cluster."""
        key = (flavour, tuple(sorted(settings.items())))
        if key not in self._databases:
            database = Database(flavour, self.folder / f"{flavour}-{len(self._databases)}", settings)
            await database.create()
            self._databases[key] = database
        await self._databases[key].start()
        return self._databases[key]

    async def close(self) -> None:
        """Stop all."""
        for database in self._databases.values():
            await database.kill()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own size, in memory."""
    if os.geteuid() != 0:
        raise NotHereError("only root may mount a small file system")
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=711", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        raise NotHereError("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)
