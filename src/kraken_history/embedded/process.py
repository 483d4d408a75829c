"""A server process, recognised by its pid file and command line. Any process may have started it."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

from kraken_history.embedded.locks import POLL_S
from kraken_history.errors import ServiceUnavailable

HOST = "127.0.0.1"
PROBE_TIMEOUT_S = 1.0
"""Timeout in seconds of each socket operation that checks whether a server answers."""

RETRY_S = 5.0
"""For how many seconds a start is repeated while a killed predecessor may still block it."""

LOG_MAX_BYTES = 5_000_000
"""If a server's log is longer than this at its start, it is renamed to ``.log.1``."""

_PORTS = range(20_000, 32_000)
"""Ports that servers may use: below those that Linux and macOS assign to outgoing connections."""

_TELLING = ("PANIC:", "FATAL:", "ERROR:", "error:", "Fatal", "# ", "can't", "failed")
_children: list[subprocess.Popen[bytes]] = []
"""Servers that this process started. They may outlive their :class:`Server`, and are reaped when they end."""


class Server(ABC):
    """One server on one port of the loopback interface.

    Attributes:
        name: Name of the server in messages.
        port: The port that it listens on.
        log: File for its output when it runs in the background.
        stop_signal: Signal that stops it cleanly, without waiting for its clients.
    """

    name: str
    stop_signal: signal.Signals

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self.log = log
        self._log_offset = 0

    @abstractmethod
    def argv(self) -> list[str]:
        """The command that runs the server in the foreground."""

    @abstractmethod
    def recorded_pid(self) -> int | None:
        """The content of its pid file, which may be stale."""

    @abstractmethod
    def owns(self, command_line: list[str]) -> bool:
        """Whether a process with this command line is this server."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the port answers as this server does when it is ready."""

    @abstractmethod
    def is_worth_another_try(self, last_words: str) -> bool:
        """Whether a start that failed with this log line may succeed once a killed predecessor has ended."""

    @abstractmethod
    def clear_leftovers(self) -> None:
        """Remove files of a killed predecessor that would prevent a start."""

    def pid(self) -> int | None:
        """The pid of the running server, ready or not; ``None`` if it is not running."""
        pid = self.recorded_pid()
        return pid if pid is not None and self.owns(command_line(pid)) else None

    def is_ready(self) -> bool:
        """Whether this server is running and accepts connections."""
        return self.pid() is not None and self.answers()

    def start(self, timeout_s: float) -> None:
        """Start in the background unless it is running, and wait until it accepts connections.

        Raises:
            ServiceUnavailable: It ended, or was not ready in time. The message quotes its log.
        """
        began = time.monotonic()
        child: subprocess.Popen[bytes] | None = None
        while not self.is_ready():
            if child is not None and child.poll() is not None:
                words = self._last_words()
                if not self.is_worth_another_try(words) or time.monotonic() > began + RETRY_S:
                    raise ServiceUnavailable(f"{self.name} did not start: {words} (log: {self.log})")
                child = None
                time.sleep(POLL_S * 5)
            # Checked in each round: a server that was just killed may still seem to run in the first.
            elif child is None and self.pid() is None:
                child = self._spawn()
            elif time.monotonic() > began + timeout_s:
                raise ServiceUnavailable(
                    f"{self.name} was not ready after {timeout_s:.0f} s: {self._last_words()} (log: {self.log})"
                )
            time.sleep(POLL_S)

    def stop(self, timeout_s: float) -> None:
        """Stop it cleanly and wait until it has ended. Does nothing if it is not running.

        Raises:
            ServiceUnavailable: It was still running after ``timeout_s``.
        """
        pid = self.pid()
        if pid is None:
            return
        deadline = time.monotonic() + timeout_s
        os.kill(pid, self.stop_signal)
        while self.owns(command_line(pid)):
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"{self.name} (process {pid}) did not stop within {timeout_s:.0f} s")
            time.sleep(POLL_S)
        reap()

    def _last_words(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self._log_offset)
            return telling_line(file.read().decode(errors="replace"))

    def _spawn(self) -> subprocess.Popen[bytes]:
        reap()
        self.clear_leftovers()
        if self.log.exists() and self.log.stat().st_size > LOG_MAX_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        # A separate session: Ctrl-C in the terminal of the command that starts it must not reach it.
        with open(self.log, "ab", opener=_private) as log:
            self._log_offset = log.tell()
            child = subprocess.Popen(
                self.argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=server_environment(),
                start_new_session=True,
            )
        _children.append(child)
        return child


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def server_environment() -> dict[str, str]:
    """This process's environment without PG* variables, which would configure PostgreSQL."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def reap() -> None:
    """Reap the children that have ended."""
    _children[:] = [child for child in _children if child.poll() is None]


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty if it does not exist, or has ended and is not reaped yet."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_text(errors="surrogateescape").split("\0")[:-1]
        except (FileNotFoundError, ProcessLookupError):
            return []
    listed = subprocess.run(["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
    # ps does not separate arguments, so the line is returned as one: enough to search it for a path.
    return [line] if (line := os.fsdecode(listed.stdout).strip()) else []


def working_directory(pid: int) -> Path | None:
    """The folder that a process works in; None where the system does not tell."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return None


def mentions(command_line: list[str], path: Path) -> bool:
    """Whether ``path`` is one of the arguments. They may be joined in one line."""
    return str(path) in command_line or any(f" {path} " in f"{argument} " for argument in command_line)


def telling_line(log: str) -> str:
    """The last line that names an error, otherwise the last line, otherwise a note that the log is empty."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if any(mark in line for mark in _TELLING)]
    return (telling or lines or ["it wrote no output"])[-1]


def port_becomes_free(port: int) -> bool:
    """Whether a server could listen on ``port`` now or, once an ending server has released it, within 0.25 s."""
    deadline = time.monotonic() + 0.25
    while not port_is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def port_is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port(*, other_than: int | None = None) -> int:
    """A port on which a server can listen now."""
    for _ in range(1000):
        port = secrets.choice(_PORTS)
        if port != other_than and port_is_free(port):
            return port
    raise ServiceUnavailable(f"found no free port between {_PORTS.start} and {_PORTS.stop}")
