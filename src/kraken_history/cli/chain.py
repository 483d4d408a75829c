"""The whole chain under one supervisor: servers, migration, and the services of the Procfile."""

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from redis.asyncio import Redis

from kraken_history.cli.checkout import find_checkout, read_procfile
from kraken_history.cli.disk import Disk
from kraken_history.cli.servers import Endpoints
from kraken_history.cli.supervisor import ProcessState, Program, Supervisor, supervised_environment
from kraken_history.database.migrations import migrate
from kraken_history.embedded import Servers
from kraken_history.embedded.process import port_is_free
from kraken_history.errors import HistoryError, ServiceUnavailable, UsageError
from kraken_history.runtime import liveness
from kraken_history.runtime.redis_access import connect_both
from kraken_history.runtime.signs import Signs
from kraken_history.settings_files import chosen_files

POSTGRES, VALKEY = "postgres", "valkey"
_SERVERS_TIMEOUT_S = 120.0
_PATIENCE_S = 5.0  # seconds after which the reason why a server does not start is printed
_POLL_S = 0.1


class AlreadyRunning(HistoryError):
    """Another command is supervising processes from this data directory."""


@contextmanager
def claimed(data_dir: Path) -> Iterator[Path]:
    """Be the one command that supervises processes from this data directory; gives the lock file.

    Raises:
        AlreadyRunning: Another command does so.
        UsageError: The directory is not writable.
    """
    lock_file = data_dir / "run/lock"
    try:
        # As root, the servers run under another account, which must be able to enter the folder.
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
        for folder in (data_dir / "run", data_dir / "logs"):
            folder.mkdir(exist_ok=True, mode=0o700)
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(
            f"cannot use the data directory {data_dir}: {error.strerror} ({error.filename});"
            " set KRAKEN_HISTORY_DATA_DIR to another one"
        ) from error
    try:
        _lock(descriptor, data_dir)
        yield lock_file
    finally:
        os.close(descriptor)


def _lock(descriptor: int, data_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(descriptor, 20, 0).decode()
        raise AlreadyRunning(
            f"already running in {data_dir} (process {pid}): stop it first,"
            " or set KRAKEN_HISTORY_DATA_DIR to another directory"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


class Chain:
    """Everything between Kraken and the database.

    Args:
        lock_file: Held locked by this process.
        servers: The embedded servers to run, prepared; None if ``endpoints`` are other servers.
        settings: Environment variables of the services, in addition to those of this process.
        extra: Further programs to run.
        metrics_port: Of the first service; each further one gets the next port.
    """

    def __init__(
        self,
        data_dir: Path,
        lock_file: Path,
        endpoints: Endpoints,
        *,
        servers: Servers | None = None,
        settings: Mapping[str, str] | None = None,
        extra: Sequence[Program] = (),
        metrics_port: int | None = None,
    ) -> None:
        services = service_programs(find_checkout(), metrics_port)
        _check_ports(metrics_port, len(services))
        self.services = tuple(program.name for program in services)
        self.endpoints = endpoints
        self.disk = Disk(data_dir)
        self._servers = servers
        self.supervisor = Supervisor(
            [*(server_programs(servers) if servers else ()), *extra, *services],
            run_dir=data_dir / "run",
            log_dir=data_dir / "logs",
            lock_file=lock_file,
            environment=supervised_environment(
                **chosen_files()  # the services run in the checkout, which may have other files
                | dict(settings or {})
                | {
                    "DATABASE_URL": endpoints.database_url,
                    "REDIS_URL": endpoints.redis_url,
                    "JOBS_REDIS_URL": "" if has_one_redis(endpoints) else endpoints.jobs_redis_url,
                }
            ),
        )

    async def start(self, *, say: Callable[[str], None] = lambda _: None) -> None:
        """Wait for the servers, migrate, and start the services, inside ``async with chain.supervisor``.

        Args:
            say: Called with the reason if a server does not start.

        Raises:
            UsageError, ServiceUnavailable: A server is not reachable, or rejects the connection.
            SchemaMismatch: The database is newer than this code.
        """
        if self._servers is not None:
            await self._wait_for_servers(self._servers, say)
        await migrate(self.endpoints.database_url)
        async with connect_both(self.endpoints.redis_url, self.endpoints.jobs_redis_url):
            pass  # both can be used
        for name in self.services:
            await self.supervisor.start_program(name)

    async def _wait_for_servers(self, servers: Servers, say: Callable[[str], None]) -> None:
        began = time.monotonic()
        has_said = False
        while not await asyncio.to_thread(servers.is_running):
            states = await self.supervisor.states()
            failing = [name for name in (POSTGRES, VALKEY) if states[name].state in ("BACKOFF", "FATAL")]
            words = "; ".join(f"{name}: {self.supervisor.last_words(name)}" for name in failing)
            if time.monotonic() > began + _SERVERS_TIMEOUT_S:
                raise ServiceUnavailable(f"the servers did not start in {_SERVERS_TIMEOUT_S:.0f} s: {words}")
            if failing and not has_said and time.monotonic() > began + _PATIENCE_S:
                has_said = True
                say(f"still trying to start the servers: {words}")
            await asyncio.sleep(_POLL_S)

    async def troubles(self, redis: Redis) -> dict[str, str]:
        """Services that are down, starting or unhealthy, each with the reason; empty if all are healthy."""
        return (await self.look(redis))[0]

    async def look(self, redis: Redis) -> tuple[dict[str, str], Signs]:
        """:meth:`troubles`, and the signs of life of these services alone.

        Those of services that were killed a moment ago, or that others run, say nothing about these.
        """
        states = await self.supervisor.states()
        pids = {states[name].pid for name in self.services if states[name].is_up}
        every = (await liveness.signs_of_life(redis)).by_name
        own = Signs({name: sign for name, sign in every.items() if sign.pid in pids})
        return self._troubles(states, own), own

    def _troubles(self, states: Mapping[str, ProcessState], own: Signs) -> dict[str, str]:
        signs = {sign.pid: sign for sign in own.by_name.values()}
        troubles = {}
        for name in self.services:
            state = states[name]
            sign = signs.get(state.pid)
            if not state.is_up:
                troubles[name] = f"it is down and will be restarted: {self.supervisor.last_words(name)}"
            elif sign is None:
                troubles[name] = "it is starting"
            elif not sign.healthy:
                troubles[name] = sign.state
        return troubles


def has_one_redis(endpoints: Endpoints) -> bool:
    """True if the streams and the jobs are in the same Redis."""
    return endpoints.jobs_redis_url == endpoints.redis_url


def service_programs(checkout: Path, metrics_port: int | None = None) -> list[Program]:
    """The services of the Procfile. They stop in the order of the file, upstream first.

    Args:
        metrics_port: Of the first service; each further one gets the next port.
    """
    processes = read_procfile((checkout / "Procfile").read_text(encoding="utf-8"))
    return [
        Program(
            process.name,
            process.argv,
            checkout,
            priority=900 - at,
            environment={"METRICS_PORT": str(metrics_port + at) if metrics_port else ""},
        )
        for at, process in enumerate(processes)
    ]


def _check_ports(first: int | None, count: int) -> None:
    for port in range(first, first + count) if first else ():
        if not port_is_free(port):
            raise UsageError(
                f"port {port} is in use: expected METRICS_PORT to be the first of {count} free ports, one per service"
            )


def server_programs(servers: Servers) -> list[Program]:
    """The prepared embedded servers, in the foreground. They start first and stop last."""
    hidden = [name for name in os.environ if name.startswith("PG")] + ["DATABASE_URL", "REDIS_URL"]
    # As in ``embedded.process.server_environment``: variables of this process must not configure PostgreSQL.
    cleaned = ("/usr/bin/env", *(word for name in hidden for word in ("-u", name)), "LC_ALL=C")
    at_root = Path("/")
    return [
        Program(
            POSTGRES,
            (*cleaned, *servers.postgres_argv()),
            at_root,
            priority=10,
            stop_signal=signal.SIGINT,
            stop_wait_s=60,
            starts_at_once=True,
        ),
        Program(VALKEY, (*cleaned, *servers.valkey_argv()), at_root, priority=11, stop_wait_s=60, starts_at_once=True),
    ]
