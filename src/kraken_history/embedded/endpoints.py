"""The ports and passwords of the servers of a data directory, kept in its file ``servers.json``."""

import os
import secrets
from pathlib import Path

import msgspec

from kraken_history.embedded.process import free_port
from kraken_history.errors import UsageError


class Endpoint(msgspec.Struct, frozen=True):
    """The port and the password of one server."""

    port: int
    password: str


class Endpoints(msgspec.Struct, frozen=True):
    """Those of both servers."""

    postgres: Endpoint
    valkey: Endpoint


def new_endpoints() -> Endpoints:
    """Free ports, and new passwords."""
    port = free_port()
    return Endpoints(Endpoint(port, secrets.token_hex(24)), Endpoint(free_port(other_than=port), secrets.token_hex(24)))


class EndpointsFile:
    """The file of a data directory. Only its account may read it."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "servers.json"

    def load(self) -> Endpoints | None:
        """The endpoints; None if the file does not exist.

        Raises:
            UsageError: The file cannot be decoded.
        """
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Endpoints)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise UsageError(
                f"cannot decode {self.path} ({error}): remove it, and the next start creates a new one"
            ) from error

    def save(self, endpoints: Endpoints) -> None:
        """Replace the file at once, so that it is never read half written."""
        draft = self.path.with_suffix(".new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(endpoints)))
            os.fsync(file.fileno())
        draft.replace(self.path)
