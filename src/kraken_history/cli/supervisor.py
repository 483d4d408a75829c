"""supervisord as a child process: its configuration, start and stop, and its XML-RPC interface.

In supervisord's configuration, ``%``, `` ;`` and other characters have a meaning that cannot be escaped everywhere.
So the configuration holds no path: supervisord runs in its own folder, and runs a shell script there per program.
"""

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
from kraken_history.runtime.tasks import end

LOG_MAX_BYTES = 5_000_000
"""Size in bytes at which supervisord rotates a program's log."""

LOG_BACKUPS = 3
"""Number of rotated logs kept per program."""

_GUARD = "guard"
_START_TIMEOUT_S = 20.0  # for supervisord's own start
_POLL_S = 0.05
_SETTLING_S = 3.0  # upper bound of the wait in ``_let_starts_settle``
_LAST_WORDS_BYTES = 4096  # how much of the end of a log ``last_words`` reads
_CONFIG, _OWN_LOG = "supervisord.conf", "supervisord.log"


class Program(msgspec.Struct, frozen=True):
    """A program that supervisord runs.

    Attributes:
        priority: Programs stop in descending order, each after the previous one has ended.
        stop_wait_s: Seconds that it may take to stop before it is killed.
        starts_at_once: False for programs that :meth:`Supervisor.start_program` starts.
        restarts: Whether it is restarted, after growing pauses, if it ends by itself.
        environment: Variables in addition to supervisord's. They are written into its script: no secrets.
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
        run_dir: Existing folder for the configuration, the scripts and supervisord's own log.
        log_dir: Existing folder for the rotating log of each program: ``run_dir`` or a folder beside it.
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
        self._output = b""  # the end of what supervisord wrote to standard output and standard error
        self._listening: asyncio.Task[None] | None = None

    def log_of(self, program: str) -> Path:
        """Path of a program's log."""
        return self._log_dir / f"{program}.log"

    def last_words(self, program: str) -> str:
        """The last line of a program's log that names an error, otherwise the last line."""
        try:
            return telling_line(_end_of(self.log_of(program)))
        except FileNotFoundError:
            return "it wrote no log"

    async def __aenter__(self) -> "Supervisor":
        # Operating systems limit a socket's path to about 100 bytes; a data directory may be longer.
        self._socket_dir = Path(tempfile.mkdtemp(prefix="kraken-history-", dir="/tmp"))
        try:
            self._write_files()
            # A separate session: only this process receives Ctrl-C, and then stops everything in order.
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "supervisor.supervisord", "-n", "-c", _CONFIG),
                stdin=asyncio.subprocess.DEVNULL,
                # Not a file: if the disk is full, supervisord reports that here, and would die if it could not.
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment,
                cwd=self._run_dir,
                start_new_session=True,
            )
            self._listening = asyncio.create_task(self._listen(self._process))
            await self._wait_until_it_answers()
        except BaseException:
            await self.stop()
            raise
        return self

    def _write_files(self) -> None:
        (self._run_dir / _CONFIG).write_text(self.config())
        for program in (self._guard, *self.programs):
            (self._run_dir / _script_of(program)).write_bytes(os.fsencode(script(program)))

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while part := await process.stdout.read(_LAST_WORDS_BYTES):
            self._output = (self._output + part)[-_LAST_WORDS_BYTES:]

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop everything and wait until it has ended. Repeating it has no effect."""
        process, self._process = self._process, None
        await self._stop(process)
        listening, self._listening = self._listening, None
        if listening is not None:
            await end(listening)
        shutil.rmtree(self._socket_dir, ignore_errors=True)

    async def _stop(self, process: asyncio.subprocess.Process | None) -> None:
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

    async def start_waiting_programs(self) -> None:
        """Start the programs that wait after a failure now, since its cause is gone; a pause may be minutes long."""
        for name, state in (await self.states()).items():
            if state.state == "BACKOFF":
                with suppress(ServiceUnavailable):  # it may have started by itself meanwhile
                    await self._call("stopProcess", name)
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
            if self._process is not None and not self.is_alive:
                raise ServiceUnavailable(f"supervisord has ended: {self._own_words()}") from error
            raise ServiceUnavailable(f"supervisord did not answer ({error}): see {self._run_dir / _OWN_LOG}") from error

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
        raise ServiceUnavailable(f"supervisord did not start: {self._own_words()}")

    def _own_words(self) -> str:
        """The line of supervisord's output that names an error, otherwise the last line of its log."""
        lines = [line for line in self._output.decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if not line.startswith((" ", "For help"))]
        if errors:
            return errors[-1]
        with suppress(OSError):
            return telling_line(_end_of(self._run_dir / _OWN_LOG))
        return "it wrote no output"

    def config(self) -> str:
        """supervisord's configuration. It holds no secrets, which are only in the environment, and no paths."""
        sections = [
            _section("unix_http_server", file=f"{self._socket_dir}/supervisor.sock", chmod="0700"),
            _section(
                "supervisord",
                logfile=_OWN_LOG,
                logfile_maxbytes=LOG_MAX_BYTES,
                logfile_backups=1,
                pidfile="supervisord.pid",
                silent="true",
                nocleanup="true",
            ),
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n",
        ]
        return "\n".join([*sections, *(self._program_section(p) for p in (self._guard, *self.programs))])

    def _program_section(self, program: Program) -> str:
        return _section(
            f"program:{program.name}",
            command=f"/bin/sh {_script_of(program)}",
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
            stdout_logfile=os.path.relpath(self.log_of(program.name), self._run_dir),
            stdout_logfile_maxbytes=LOG_MAX_BYTES,
            stdout_logfile_backups=LOG_BACKUPS,
        )


def script(program: Program) -> str:
    """A shell script that becomes the program. Its process keeps its pid."""
    variables = [f"export {name}={shlex.quote(value)}" for name, value in program.environment.items()]
    lines = [f"cd {shlex.quote(str(program.directory))} || exit", *variables, f"exec {shlex.join(program.argv)}"]
    return "".join(f"{line}\n" for line in lines)


def _script_of(program: Program) -> str:
    return f"{program.name}.sh"


def _section(title: str, **options: object) -> str:
    return f"[{title}]\n" + "".join(f"{name} = {value}\n" for name, value in options.items())


def _end_of(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES, 0))
        return file.read().decode(errors="replace")


def supervised_environment(**changes: str) -> dict[str, str]:
    """This process's environment with changes; this Python's own programs come first on PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, **changes, "PATH": path, "PYTHONUNBUFFERED": "1"}
