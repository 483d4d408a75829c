"""A server process: found by its pid file and command line, whoever started it."""

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
LOG_MAX_BYTES = 5_000_000
_PORTS = range(20_000, 32_000)
"""Below the ports that Linux and macOS give to outgoing connections, which come and go."""

_TELLING = ("PANIC:", "FATAL:", "ERROR:", "error:", "Fatal", "# ", "can't", "failed")
_children: list[subprocess.Popen[bytes]] = []
"""Servers that this process started. They may outlive any object here, and must be reaped when they end."""


class Server(ABC):
    """One server on one port of the loopback interface.

    Attributes:
        name: For messages.
        port: Where it listens.
        log: Where its output goes when it runs in the background.
        stop_signal: What makes it end in good order, without waiting for its clients.
    """

    name: str
    stop_signal: signal.Signals

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self.log = log

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
        """Whether something on the port talks as this server does when it is ready."""

    def is_worth_another_try(self, last_words: str) -> bool:
        """Whether a start that ended with these words may succeed in a moment."""
        return False

    def pid(self) -> int | None:
        """The pid of the running server, ready or not; ``None`` if it does not run."""
        pid = self.recorded_pid()
        return pid if pid is not None and self.owns(command_line(pid)) else None

    def is_ready(self) -> bool:
        """Whether this server runs and takes connections."""
        return self.pid() is not None and self.answers()

    def start(self, timeout_s: float) -> None:
        """Start in the background unless it runs, and wait until it takes connections.

        Raises:
            ServiceUnavailable: It ended, or was not ready in time; the message tells its last words.
        """
        deadline = time.monotonic() + timeout_s
        child = None if self.pid() is not None else self._spawn()
        while not self.is_ready():
            if child is not None and child.poll() is not None:
                words = last_words(self.log)
                if not self.is_worth_another_try(words) or time.monotonic() > deadline:
                    raise ServiceUnavailable(f"{self.name} did not start: {words} (log: {self.log})")
                time.sleep(POLL_S * 5)
                child = self._spawn()
            elif time.monotonic() > deadline:
                raise ServiceUnavailable(
                    f"{self.name} was not ready after {timeout_s:.0f} s: {last_words(self.log)} (log: {self.log})"
                )
            time.sleep(POLL_S)

    def stop(self, timeout_s: float) -> None:
        """Stop in good order and wait for the end; nothing happens if it does not run.

        Raises:
            ServiceUnavailable: It was still there after ``timeout_s``.
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

    def _spawn(self) -> subprocess.Popen[bytes]:
        reap()
        if self.log.exists() and self.log.stat().st_size > LOG_MAX_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        # A session of its own: Ctrl-C in the terminal of whoever happens to start it must not reach it.
        with self.log.open("ab") as log:
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


def server_environment() -> dict[str, str]:
    """Our environment without the variables that would configure PostgreSQL behind our back."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def reap() -> None:
    """Let children that have ended go."""
    _children[:] = [child for child in _children if child.poll() is None]


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty if there is none, or it has ended and waits to be reaped."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_text(errors="surrogateescape").split("\0")[:-1]
        except (FileNotFoundError, ProcessLookupError):
            return []
    listed = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
    # ps does not say where an argument ends, so the line is one: enough to look for a path in it.
    return [line] if (line := os.fsdecode(listed.stdout).strip()) else []


def last_words(log: Path) -> str:
    """The most telling line at the end of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        lines = []
    return telling_line(lines)


def telling_line(lines: list[str]) -> str:
    """The last line that names an error, or the last line, or a word on silence."""
    telling = [line for line in lines if any(mark in line for mark in _TELLING)]
    return (telling or lines or ["it said nothing"])[-1]


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
    raise ServiceUnavailable(f"no free port between {_PORTS.start} and {_PORTS.stop}")
