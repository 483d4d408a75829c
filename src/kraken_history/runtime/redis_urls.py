"""The URL of a Redis, read once, and given to each client in the form that this client understands.

Providers and frameworks put options of redis-py into the URL. Some would change the form of every answer
(``decode_responses``, ``protocol``), or the times after which a connection counts as dead; they are left out.
"""

from typing import Any

from arq.connections import RedisSettings
from msgspec import Struct
from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection

from kraken_history.urls import DEFAULT_PREFIX, PREFIX, InvalidUrl, split_url

EXAMPLE = "redis://:password@host:6379/0"

_TLS = frozenset(
    {
        *("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_data", "ssl_check_hostname"),
        *("ssl_min_version", "ssl_ciphers"),
    }
)
_TLS_OF_ARQ = frozenset({"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_data"})
_LEFT_OUT = frozenset(
    {
        *("decode_responses", "encoding", "encoding_errors", "protocol", "retry_on_timeout", "retry_on_error"),
        *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "socket_read_size", "socket_type"),
        *("health_check_interval", "max_connections", "timeout", "client_name", "lib_name", "lib_version"),
        *("single_connection_client", "auto_close_connection_pool", "parser_class", "family", "virtual_host"),
    }
)
"""Options of clients that do no good here, and no harm if they are missing."""

_YES = frozenset({"true", "1", "yes", "on", "t", "y"})
_NO = frozenset({"false", "0", "no", "off", "f", "n", ""})
_CERTIFICATES = ("none", "optional", "required")


class RedisUrl(Struct, frozen=True):
    """A Redis' address. Its repr shows host, port and database only.

    Attributes:
        socket: Path of its Unix socket, instead of host and port.
        tls: Arguments about TLS, by redis-py's names; None without TLS.
        prefix: The argument ``prefix``, which is ours: first part of the names of all our keys.
    """

    host: str
    port: int
    socket: str | None
    database: int
    user: str | None
    password: str | None
    tls: dict[str, Any] | None
    prefix: str = DEFAULT_PREFIX

    def __repr__(self) -> str:
        return f"<Redis {self.database} at {self.socket or f'{self.host}:{self.port}'}>"

    @property
    def connection_class(self) -> type[AbstractConnection]:
        """redis-py's kind of connection."""
        if self.socket is not None:
            return UnixDomainSocketConnection
        return Connection if self.tls is None else SSLConnection

    def connection_arguments(self) -> dict[str, Any]:
        """Arguments of :attr:`connection_class`."""
        place = {"path": self.socket} if self.socket is not None else {"host": self.host, "port": self.port}
        return {**place, "db": self.database, **self._account(), **(self.tls or {})}

    def client_arguments(self) -> dict[str, Any]:
        """Arguments of redis-py's client without an event loop."""
        if self.socket is not None:
            return {"unix_socket_path": self.socket, "db": self.database, **self._account()}
        return self.connection_arguments() | {"ssl": self.tls is not None}

    def arq_settings(self) -> RedisSettings:
        """Settings for arq's own connections."""
        tls = {name: value for name, value in (self.tls or {}).items() if name in _TLS_OF_ARQ | {"ssl_check_hostname"}}
        return _Settings(
            host=self.host,
            port=self.port,
            unix_socket_path=self.socket,
            database=self.database,
            ssl=self.tls is not None,
            **self._account(),
            **tls,
        )

    def _account(self) -> dict[str, Any]:
        return {} if self.password is None else {"username": self.user, "password": self.password}


class _Settings(RedisSettings):
    """arq's settings, whose repr shows the password otherwise."""

    def __repr__(self) -> str:
        return f"RedisSettings(host={self.host!r}, port={self.port!r})"


def read_redis_url(url: str) -> RedisUrl:
    """Read the URL of a Redis.

    Raises:
        InvalidUrl: It is not a URL of Redis, or has an argument that is not known; names the argument.
    """
    parts = split_url(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise InvalidUrl("it does not begin with redis:// or rediss://")
    if len(parts.hosts) > 1:
        raise InvalidUrl("expected one host: Sentinel and Cluster are not supported")
    options = dict(parts.options)
    is_socket = parts.scheme == "unix"
    database = options.pop("db", "0" if is_socket else parts.path.strip("/") or "0")
    if not database.isascii() or not database.isdigit():
        raise InvalidUrl("expected the number of a database behind the port, for example /0")
    user, password = options.pop("username", parts.user), options.pop("password", parts.password)
    prefix = options.pop("prefix", DEFAULT_PREFIX)
    if not PREFIX.fullmatch(prefix):
        raise InvalidUrl("expected the argument prefix to be letters, digits, and - _ . or : between them")
    tls = _tls_of(options, is_on=parts.scheme == "rediss")
    for name in sorted(options.keys() - _LEFT_OUT):
        raise InvalidUrl(f"the argument {name} is not known: remove it from the URL")
    host, port = parts.hosts[0] if parts.hosts else ("localhost", None)
    return RedisUrl(
        host=host,
        port=port or 6379,
        socket=parts.path if is_socket else None,
        database=int(database),
        user=user,
        password=password,
        tls=tls,
        prefix=prefix,
    )


def _tls_of(options: dict[str, str], *, is_on: bool) -> dict[str, Any] | None:
    """redis-py's arguments about TLS; None if it is off."""
    given: dict[str, Any] = {name: options.pop(name) for name in sorted(options.keys() & _TLS)}
    if (ssl := options.pop("ssl", None)) is not None:
        is_on = is_on or _boolean("ssl", ssl)
    if not is_on:
        return None
    if (checked := given.get("ssl_cert_reqs")) is not None:
        given["ssl_cert_reqs"] = checked.lower().removeprefix("cert_")
        if given["ssl_cert_reqs"] not in _CERTIFICATES:
            raise InvalidUrl(f"expected the argument ssl_cert_reqs to be one of {', '.join(_CERTIFICATES)}")
    if (names := given.get("ssl_check_hostname")) is not None:
        given["ssl_check_hostname"] = _boolean("ssl_check_hostname", names)
    given.pop("ssl_min_version", None)  # Python's default is safe, and redis-py takes no text here
    return given


def _boolean(name: str, value: str) -> bool:
    if value.lower() not in _YES | _NO:
        raise InvalidUrl(f"expected the argument {name} to be true or false")
    return value.lower() in _YES
