"""Servers as people rent them: PgBouncer, PostgreSQL with TLS, Redis with accounts. From the machine's own packages."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from kraken_history.embedded.process import HOST, free_port, port_is_free

_NOBODY = 65_534  # PgBouncer and PostgreSQL refuse to run as root
_PATIENCE_S = 20.0


def program(name: str) -> str:
    """The path of an installed program; the test is skipped if there is none."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")
    if found is None:
        pytest.skip(f"{name} is not installed on this machine (Debian: apt-get install {name})")
    return found


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that the account of the servers owns."""
    with tempfile.TemporaryDirectory(prefix="kraken-history-neighbour-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        _give(folder)
        yield folder


@contextmanager
def running(argv: Sequence[str], *, log: Path, is_up: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    """A server, under another account than root's, until the end of ``with``."""
    account = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    with log.open("ab") as output:
        server = subprocess.Popen(argv, stdout=output, stderr=output, cwd="/", **account)  # type: ignore[call-overload]
    try:
        give_up = time.monotonic() + _PATIENCE_S
        while not is_up():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.02)
        yield server
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@contextmanager
def pgbouncer(database_url: str, *, pool_mode: str, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """A PgBouncer in front of a server; gives the URL of the same database through it."""
    parts = urlsplit(database_url)
    port = free_port()
    with private_folder() as folder:
        users = folder / "users.txt"
        users.write_text(f'"{parts.username}" "{parts.password}"\n')
        configured = {
            "listen_addr": HOST,
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(users),
            "pool_mode": pool_mode,
            "default_pool_size": "5" if pool_mode != "session" else "20",
            "server_round_robin": "1",  # each transaction in another session than the last
            **(settings or {}),
        }
        lines = [f"{name} = {value}" for name, value in configured.items()]
        config = folder / "pgbouncer.ini"
        host = f"host={parts.hostname} port={parts.port}"
        config.write_text("\n".join(["[databases]", f"* = {host}", "[pgbouncer]", *lines, ""]))
        for path in (users, config):
            _give(path)
        with running([program("pgbouncer"), str(config)], log=folder / "log", is_up=lambda: not port_is_free(port)):
            yield urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@{HOST}:{port}"))


def _give(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, _NOBODY, _NOBODY)


@contextmanager
def redis_server(*options: str, tls: Path | None = None) -> Iterator[int]:
    """Debian's Redis with these options; gives its port.

    Args:
        tls: The folder of its :func:`certificates`; without TLS, it then takes no connection.
    """
    port = free_port()
    with private_folder() as folder:
        argv = [program("redis-server"), "--bind", HOST, "--dir", str(folder), "--save", ""]
        argv += ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"] if tls else ["--port", str(port)]
        for name, file in _TLS_FILES if tls else ():
            argv += [name, f"{tls}/{file}"]
        with running([*argv, *options], log=folder / "log", is_up=lambda: not port_is_free(port)):
            yield port


_TLS_FILES = (
    ("--tls-cert-file", "server.crt"),
    ("--tls-key-file", "server.key"),
    ("--tls-ca-cert-file", "ca.crt"),
)


@contextmanager
def certificates() -> Iterator[Path]:
    """A folder with ``ca.crt``, and ``server.crt`` and ``server.key`` for localhost, signed by it."""
    openssl = program("openssl")
    with private_folder() as folder:
        (folder / "names").write_text("subjectAltName=DNS:localhost\n")
        for line in (
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt",
            "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out server.crt -extfile names",
        ):
            subprocess.run([openssl, *line.split()], cwd=folder, capture_output=True, check=True)
        for path in folder.iterdir():
            path.chmod(0o600)
            _give(path)
        (folder / "ca.crt").chmod(0o644)
        folder.chmod(0o711)
        yield folder
