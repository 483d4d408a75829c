"""supervisord as a child process: its configuration, start and stop, and its XML-RPC interface."""

import asyncio
import os
import shlex
import shutil
import signal
import sys
import tempfile
import xmlrpc.client
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import msgspec
from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]  # it has no stubs

from kraken_history.embedded.process import telling_line
from kraken_history.errors import ServiceUnavailable

LOG_MAX_BYTES = 5_000_000
"""Size in bytes at which supervisord rotates a program's log."""

LOG_BACKUPS = 3
"""Number of rotated logs kept per program."""

_GUARD = "guard"
_START_TIMEOUT_S = 20.0  # for supervisord's own start
_POLL_S = 0.05
_SETTLING_S = 3.0  # upper bound of the wait in ``_let_starts_settle``
_LAST_WORDS_BYTES = 4096  # how much of the end of a log ``last_words`` reads


class Program(msgspec.Struct, frozen=True):
    """A program that supervisord runs.

    Attributes:
        priority: Programs stop in descending order, each after the previous one has ended.
        stop_wait_s: Seconds that it may take to stop before it is killed.
        starts_at_once: False for programs that :meth:`Supervisor.start_program` starts.
        restarts: Whether it is restarted, after growing pauses, if it ends by itself.
        environment: Variables in addition to supervisord's. They are written into a file: no secrets.
    """

    name: str
    argv: tuple[str, ...]
    directory: Path
    priority: int
    stop_signal: signal.Signals = signal.SIGTERM
    stop_wait_s: int = 20
    starts_at_once: bool = False
    restarts: bool = True
    environment: Mapping[str, str] = {}


class ProcessState(msgspec.Struct, frozen=True):
    """State of a program as supervisord reports it.

    Attributes:
        state: Supervisor's name of the state: ``RUNNING``, ``STARTING``, ``BACKOFF``, ``EXITED`` …
        description: Supervisor's description of the state.
        is_new: Whether it was started less than two seconds ago.
    """

    state: str
    pid: int
    description: str
    is_new: bool

    @property
    def is_up(self) -> bool:
        """True while there is a process."""
        return self.state in ("RUNNING", "STARTING") and self.pid != 0


class Supervisor:
    """Runs programs. ``async with`` starts supervisord and, at the end, stops all programs in order.

    Args:
        run_dir: Existing folder for the configuration and supervisord's own log.
        log_dir: Existing folder for the rotating log of each program.
        lock_file: A file that this process holds locked for as long as it runs.
        environment: Environment of supervisord, which the programs inherit.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        run_dir: Path,
        log_dir: Path,
        lock_file: Path,
        environment: Mapping[str, str],
    ) -> None:
        guard = (sys.executable, "-IS", str(Path(__file__).with_name("guard.py")), str(lock_file))
        self.programs = tuple(programs)
        self._guard = Program(_GUARD, guard, Path("/"), priority=1, starts_at_once=True)
        self._run_dir = run_dir
        self._log_dir = log_dir
        self._environment = dict(environment)
        self._socket_dir = Path()
        self._pids: dict[str, int] = {}
        self._process: asyncio.subprocess.Process | None = None

    def log_of(self, program: str) -> Path:
        """Path of a program's log."""
        return self._log_dir / f"{program}.log"

    def last_words(self, program: str) -> str:
        """The last line of a program's log that names an error, otherwise the last line."""
        try:
            with self.log_of(program).open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES, 0))
                return telling_line(file.read().decode(errors="replace"))
        except FileNotFoundError:
            return "it wrote no log"

    async def __aenter__(self) -> "Supervisor":
        # Operating systems limit a socket's path to about 100 bytes; a data directory may be longer.
        self._socket_dir = Path(tempfile.mkdtemp(prefix="kraken-history-", dir="/tmp"))
        config = self._run_dir / "supervisord.conf"
        config.write_text(self.config())
        try:
            with (self._run_dir / "supervisord.out").open("wb") as output:
                # A separate session: only this process receives Ctrl-C, and then stops everything in order.
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(config)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self._environment,
                    cwd="/",
                    start_new_session=True,
                )
            await self._wait_until_it_answers()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop everything and wait until it has ended. Repeating it has no effect."""
        process, self._process = self._process, None
        if process is not None and process.returncode is not None:
            self._end_orphans()
        elif process is not None:
            await self._let_starts_settle()
            process.send_signal(signal.SIGTERM)
            ended = asyncio.create_task(process.wait())
            # supervisord checks for ended programs once a second, and on each request: requests shorten the wait.
            while not (await asyncio.wait([ended], timeout=_POLL_S))[0]:
                with suppress(ServiceUnavailable):
                    await self.states()
        shutil.rmtree(self._socket_dir, ignore_errors=True)

    async def _let_starts_settle(self) -> None:
        """Wait until no program is new: a child between fork and exec would lose its stop signal."""
        for _ in range(int(_SETTLING_S / _POLL_S)):
            try:
                states = await self.states()
            except ServiceUnavailable:
                return
            if all(not state.is_new for state in states.values()):
                return
            await asyncio.sleep(_POLL_S)

    async def wait(self) -> None:
        """Wait until supervisord ends, for any reason."""
        if self._process is not None:
            await self._process.wait()

    def _end_orphans(self) -> None:
        """Stop programs whose supervisord was killed, by their process groups: each program leads its own."""
        for program in self.programs:
            if pid := self._pids.get(program.name):
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, program.stop_signal)

    @property
    def is_alive(self) -> bool:
        """Whether supervisord itself runs."""
        return self._process is not None and self._process.returncode is None

    async def start_program(self, name: str) -> None:
        """Start one of the programs, without waiting until it runs."""
        await self._call("startProcess", name, False)

    async def states(self) -> dict[str, ProcessState]:
        """State of each program, by name.

        Raises:
            ServiceUnavailable: supervisord does not answer.
        """
        answer = await self._call("getAllProcessInfo")
        self._pids = {row["name"]: row["pid"] for row in answer}
        return {
            row["name"]: ProcessState(
                row["statename"],
                row["pid"],
                row["description"] or row["spawnerr"],
                is_new=row["pid"] != 0 and row["now"] - row["start"] < 2,
            )
            for row in answer
            if row["name"] != _GUARD
        }

    async def _call(self, method: str, *arguments: object) -> Any:
        try:
            return await asyncio.to_thread(self._call_and_wait, method, *arguments)
        except (OSError, HTTPException, xmlrpc.client.Error) as error:
            raise ServiceUnavailable(
                f"supervisord did not answer ({error}): see {self._run_dir}/supervisord.log"
            ) from error

    def _call_and_wait(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._socket_dir}/supervisor.sock")
        with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as server:
            return getattr(server.supervisor, method)(*arguments)

    async def _wait_until_it_answers(self) -> None:
        for _ in range(int(_START_TIMEOUT_S / _POLL_S)):
            try:
                await self.states()
            except ServiceUnavailable:
                if not self.is_alive:
                    break
                await asyncio.sleep(_POLL_S)
            else:
                return
        words = (self._run_dir / "supervisord.out").read_text(errors="replace").strip().splitlines()
        raise ServiceUnavailable(f"supervisord did not start: {words[-1] if words else 'it wrote no output'}")

    def config(self) -> str:
        """supervisord's configuration. It holds no secrets: these are only in the environment."""
        run = _escaped(self._run_dir)
        sections = [
            _section("unix_http_server", file=f"{_escaped(self._socket_dir)}/supervisor.sock", chmod="0700"),
            _section(
                "supervisord",
                logfile=f"{run}/supervisord.log",
                logfile_maxbytes=LOG_MAX_BYTES,
                logfile_backups=1,
                pidfile=f"{run}/supervisord.pid",
                silent="true",
                nocleanup="true",
            ),
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n",
        ]
        return "\n".join([*sections, *(self._program_section(p) for p in (self._guard, *self.programs))])

    def _program_section(self, program: Program) -> str:
        environment = ",".join(f'{name}="{_escaped(value)}"' for name, value in program.environment.items())
        return _section(
            f"program:{program.name}",
            command=_escaped(shlex.join(program.argv)),
            directory=_escaped(program.directory),
            priority=program.priority,
            autostart=str(program.starts_at_once).lower(),
            autorestart=str(program.restarts).lower(),
            startsecs=1,
            # Each pause is a second longer than the one before. supervisord must not give up: the user decides.
            startretries=100_000 if program.restarts else 0,
            stopsignal=program.stop_signal.name.removeprefix("SIG"),
            stopwaitsecs=program.stop_wait_s,
            killasgroup="true",
            redirect_stderr="true",
            stdout_logfile=_escaped(self.log_of(program.name)),
            stdout_logfile_maxbytes=LOG_MAX_BYTES,
            stdout_logfile_backups=LOG_BACKUPS,
            environment=environment,
        )


def _section(title: str, **options: object) -> str:
    return f"[{title}]\n" + "".join(f"{name} = {value}\n" for name, value in options.items() if value != "")


def _escaped(value: object) -> str:
    return str(value).replace("%", "%%")


def supervised_environment(**changes: str) -> dict[str, str]:
    """This process's environment with changes; this Python's own programs come first on PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, **changes, "PATH": path, "PYTHONUNBUFFERED": "1"}
