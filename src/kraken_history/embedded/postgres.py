"""An embedded PostgreSQL cluster, run with the programs of a given installation."""

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kraken_history.embedded.accounts import Account, as_account, check_entry, server_account
from kraken_history.embedded.binaries import version_of
from kraken_history.embedded.process import (
    HOST,
    PROBE_TIMEOUT_S,
    Server,
    command_line,
    mentions,
    server_environment,
    telling_line,
    working_directory,
)
from kraken_history.errors import ServiceUnavailable, UsageError

SUPERUSER = "kraken"
LAPTOP_SETTINGS = {
    "shared_buffers": "256MB",
    "max_locks_per_transaction": "1024",  # a statement over years locks the partition of each day
    "max_wal_size": "2GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
"""Settings written into ``postgresql.conf`` when the cluster is created. The user may change them there."""

# For ``durable=False``: faster, but an operating system crash may corrupt the cluster.
_CARELESS_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_PROTOCOL_3 = 196608  # the protocol version of a startup message: 3 << 16


class Postgres(Server):
    """One cluster.

    Args:
        bin_dir: The folder of ``postgres`` and ``initdb``.
        data: The cluster's folder. It is created under a temporary name in the same parent folder.
        durable: False trades the safety of the data for speed.
    """

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # SIGTERM would wait until every client has disconnected

    def __init__(self, bin_dir: Path, data: Path, *, port: int, log: Path, durable: bool = True) -> None:
        super().__init__(port, log)
        self.bin_dir = bin_dir
        self.data = data
        self.durable = durable

    @property
    def exists(self) -> bool:
        """Whether the cluster has been created completely."""
        return self.data.exists()

    def create(self, *, password: str, database: str, settings: Mapping[str, str]) -> None:
        """Create the cluster and an empty database in it, without starting a server.

        This happens in a temporary folder that is renamed to ``data`` last, so ``data`` is always complete.

        Raises:
            ServiceUnavailable: ``initdb``, or creating the database, failed.
            UsageError: This process's account cannot run them.
        """
        account = server_account(self.data)
        if account is None:
            check_entry()
        for abandoned in self.data.parent.glob(f"{self.data.name}.new-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        # A new name each time: an initdb whose parent was killed may still be writing to the old one.
        draft = Path(tempfile.mkdtemp(prefix=f"{self.data.name}.new-", dir=self.data.parent))
        try:
            self._fill(draft, account, password, database, settings)
            draft.rename(self.data)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def _fill(
        self, draft: Path, account: Account | None, password: str, database: str, settings: Mapping[str, str]
    ) -> None:
        password_file = self.data.with_name(self.data.name + ".password")
        _write_private(password_file, password)
        if account is not None:
            os.chown(draft, account.uid, account.gid)
            os.chown(password_file, account.uid, account.gid)
        try:
            self._initdb(draft, password_file, account)
        finally:
            password_file.unlink()
        with (draft / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self._single_user(draft, f'CREATE DATABASE "{database}"')

    def check_version(self) -> None:
        """Check that these programs can read the cluster.

        Raises:
            UsageError: Another major version created it.
        """
        made_by, ours = self.made_by(), self.version()
        if made_by != ours:
            raise UsageError(
                f"{self.data} was made by PostgreSQL {made_by}, and this is PostgreSQL {ours}: run"
                " `kraken-history upgrade`, or use another data directory"
            )

    def made_by(self) -> str | None:
        """The major version that created the cluster; None if there is none."""
        return (self.data / "PG_VERSION").read_text().strip() if self.exists else None

    def version(self) -> str:
        """The major version of the programs."""
        return version_of(Path(self._program("postgres")))

    def set_password(self, password: str) -> None:
        """Set the superuser's password. The server must not be running."""
        self._single_user(self.data, f"ALTER ROLE {SUPERUSER} PASSWORD '{password}'")

    def clear_leftovers(self) -> None:
        """Remove a pid file whose pid belongs to another program, or to an ended process that is not reaped.

        The first happens after a reboot, the second in a container whose first process does not reap.
        PostgreSQL ignores an unused pid, but takes any existing process of its account for a postmaster, even that of
        another cluster. A postmaster works in its cluster's folder.
        """
        pid = self.recorded_pid()
        if pid is None:
            return
        elsewhere = (folder := working_directory(pid)) is not None and folder != self.data
        if elsewhere or "postgres" not in "".join(command_line(pid)[:1]):
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def argv(self) -> list[str]:
        """The command that runs the server in the foreground. Stop it with SIGINT."""
        settings = {
            "port": str(self.port),
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "logging_collector": "off",
        } | ({} if self.durable else _CARELESS_SETTINGS)
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return self._as_account([self._program("postgres"), "-D", str(self.data), *options], server_account(self.data))

    def recorded_pid(self) -> int | None:
        """The first line of ``postmaster.pid``."""
        lines = self._pid_file()
        return int(lines[0]) if lines and lines[0].isdigit() else None

    def owns(self, command_line: list[str]) -> bool:
        """Whether this is the postmaster of this cluster."""
        return mentions(command_line, self.data)

    def answers(self) -> bool:
        """Whether the postmaster reports itself ready and requests a password from a new client."""
        lines = self._pid_file()
        if len(lines) < 8 or lines[3] != str(self.port) or lines[7].strip() != "ready":
            return False
        body = struct.pack("!I", _PROTOCOL_3) + f"user\0{SUPERUSER}\0database\0postgres\0\0".encode()
        try:
            with socket.create_connection((HOST, self.port), timeout=PROBE_TIMEOUT_S) as connection:
                connection.sendall(struct.pack("!I", len(body) + 4) + body)
                return connection.recv(1) == b"R"
        except OSError:
            return False

    def is_worth_another_try(self, last_words: str) -> bool:
        """True if the children of a killed postmaster may not have ended yet: they need a moment to notice."""
        return any(words in last_words for words in ("still in use", "lock file", "TCP/IP sockets"))

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text(errors="surrogateescape").splitlines()
        except FileNotFoundError:
            return []

    def _program(self, name: str) -> str:
        return str(self.bin_dir / name)

    def _as_account(self, argv: list[str], account: Account | None) -> list[str]:
        wrapped = as_account(argv, account, reaching=[self.data])
        # Without LC_ALL=C, locale code of macOS may make the postmaster multithreaded, which it refuses.
        return ["/usr/bin/env", "LC_ALL=C", *wrapped] if sys.platform == "darwin" else wrapped

    def _initdb(self, draft: Path, password_file: Path, account: Account | None) -> None:
        options = [
            f"--pgdata={draft}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
        ]
        if not self.durable:
            options.append("--no-sync")
        self._run([self._program("initdb"), *options], account)

    def _single_user(self, data: Path, statement: str) -> None:
        argv = [self._program("postgres"), "--single", "-j", "-D", str(data)]
        argv += [] if self.durable else ["-c", "fsync=off"]
        errors = self._run([*argv, "postgres"], server_account(data), script=f"{statement};\n\n")
        # If the statement fails, the exit code is still 0.
        if "ERROR:" in errors:
            raise ServiceUnavailable(f"PostgreSQL refused to set up {data}: {telling_line(errors)}")

    def _run(self, argv: list[str], account: Account | None, script: str = "") -> str:
        done = subprocess.run(
            self._as_account(argv, account),
            input=script,
            capture_output=True,
            text=True,
            errors="replace",
            cwd="/",
            env=server_environment(),
            start_new_session=True,
            check=False,
        )
        if done.returncode:
            words = telling_line(done.stderr)
            raise ServiceUnavailable(f"{Path(argv[0]).name} failed for the database in {self.data}: {words}")
        return done.stderr


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
