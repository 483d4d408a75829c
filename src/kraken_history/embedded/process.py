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
RETRY_S = 5.0
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
        """Whether something on the port talks as this server does when it is ready."""

    @abstractmethod
    def is_worth_another_try(self, last_words: str) -> bool:
        """Whether a start that ended with these words may succeed once a killed predecessor is quite gone."""

    @abstractmethod
    def clear_leftovers(self) -> None:
        """Remove what a killed predecessor left and the server does not cope with."""

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
        began = time.monotonic()
        child: subprocess.Popen[bytes] | None = None
        while not self.is_ready():
            if child is not None and child.poll() is not None:
                words = self._last_words()
                if not self.is_worth_another_try(words) or time.monotonic() > began + RETRY_S:
                    raise ServiceUnavailable(f"{self.name} did not start: {words} (log: {self.log})")
                child = None
                time.sleep(POLL_S * 5)
            # Asked in every round: a server that was killed just now may still look alive in the first.
            elif child is None and self.pid() is None:
                child = self._spawn()
            elif time.monotonic() > began + timeout_s:
                raise ServiceUnavailable(
                    f"{self.name} was not ready after {timeout_s:.0f} s: {self._last_words()} (log: {self.log})"
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

    def _last_words(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self._log_offset)
            return telling_line(file.read().decode(errors="replace"))

    def _spawn(self) -> subprocess.Popen[bytes]:
        reap()
        self.clear_leftovers()
        if self.log.exists() and self.log.stat().st_size > LOG_MAX_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        # A session of its own: Ctrl-C in the terminal of whoever happens to start it must not reach it.
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


def mentions(command_line: list[str], path: Path) -> bool:
    """Whether ``path`` is one of the arguments, which may have been given as one line."""
    return str(path) in command_line or any(f" {path} " in f"{argument} " for argument in command_line)


def telling_line(log: str) -> str:
    """The last line that names an error, or the last line, or a word on silence."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if any(mark in line for mark in _TELLING)]
    return (telling or lines or ["it said nothing"])[-1]


def port_becomes_free(port: int) -> bool:
    """Whether a server could listen on ``port`` now or, after one that is just dying, in a moment."""
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
    raise ServiceUnavailable(f"no free port between {_PORTS.start} and {_PORTS.stop}")
