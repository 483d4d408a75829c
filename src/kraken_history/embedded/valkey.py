"""An embedded Valkey server."""

import os
import signal
import socket
from pathlib import Path

from kraken_history.embedded.process import HOST, PROBE_TIMEOUT_S, Server, mentions


class Valkey(Server):
    """One server that stores its data on disk.

    Args:
        program: Path of ``valkey-server``.
        data: Its folder, created if it is missing.
        durable: False lets the operating system decide when data reaches the disk.
    """

    name = "Valkey"
    stop_signal = signal.SIGTERM

    def __init__(self, program: Path, data: Path, *, port: int, password: str, log: Path, durable: bool = True) -> None:
        super().__init__(port, log)
        self.program = program
        self.data = data
        self.durable = durable
        self._password = password
        self._config = data / "valkey.conf"

    def configure(self) -> None:
        """Write the configuration, which keeps the password off the command line."""
        self.data.mkdir(mode=0o700, exist_ok=True)
        settings = {
            "bind": HOST,
            "port": str(self.port),
            "protected-mode": "yes",
            "requirepass": self._password,
            "dir": _quoted(str(self.data)),
            "appendonly": "yes",
            "appendfsync": "everysec" if self.durable else "no",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "pidfile": _quoted(str(self._pid_file)),
            "logfile": '""',
            # ``owns`` recognises the process by its command line, so Valkey must not change it.
            "set-proc-title": "no",
        }
        draft = self._config.with_suffix(".new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(os.fsencode("".join(f"{name} {value}\n" for name, value in settings.items())))
        draft.replace(self._config)

    def argv(self) -> list[str]:
        """The command that runs the server in the foreground."""
        return [str(self.program), str(self._config)]

    def recorded_pid(self) -> int | None:
        """The content of its pid file."""
        try:
            content = self._pid_file.read_text().strip()
        except FileNotFoundError:
            return None
        return int(content) if content.isdigit() else None

    def owns(self, command_line: list[str]) -> bool:
        """Whether a process with this command line was started with this configuration."""
        return mentions(command_line, self._config)

    def answers(self) -> bool:
        """Whether it accepts the password and has loaded its data."""
        expected = b"+OK\r\n+PONG\r\n"
        received = b""
        try:
            with socket.create_connection((HOST, self.port), timeout=PROBE_TIMEOUT_S) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                while len(received) < len(expected) and (part := connection.recv(len(expected))):
                    received += part
        except OSError:
            return False
        return received == expected

    def is_worth_another_try(self, last_words: str) -> bool:
        """True if the port was in use: the predecessor may not have released it yet."""
        return "Failed listening" in last_words

    def clear_leftovers(self) -> None:
        """Do nothing: no file of a killed Valkey prevents a start."""

    @property
    def _pid_file(self) -> Path:
        return self.data / "valkey.pid"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
