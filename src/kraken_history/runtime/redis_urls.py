"""The URL of a Redis, read once, and given to each client in the form that this client understands.

It names one server, or the Sentinels that know the current master, or some nodes of a cluster::

    redis://:password@host:6379/0
    redis+sentinel://:password@host:26379,host:26379/master-name/0
    redis+cluster://:password@host:6379,host:6379

With ``rediss`` instead of ``redis``, all of their servers are reached over TLS.

Providers and frameworks put options of redis-py into the URL. Some would change the form of every answer
(``decode_responses``, ``protocol``), or the times after which a connection counts as dead; they are left out.
"""

from typing import Any, Literal

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


Kind = Literal["server", "sentinel", "cluster"]

_DEFAULT_PORTS: dict[Kind, int] = {"server": 6379, "sentinel": 26379, "cluster": 6379}


class RedisUrl(Struct, frozen=True):
    """A Redis' address. Its repr shows hosts, ports and database only.

    Attributes:
        kind: What the hosts are: the server itself, Sentinels, or nodes of a cluster.
        hosts: Host and port, in order.
        master: Under which name the Sentinels know the master.
        sentinel_user: Account at the Sentinels. That of the URL is the account at the master.
        socket: Path of its Unix socket, instead of host and port.
        tls: Arguments about TLS, by redis-py's names; None without TLS.
        prefix: The argument ``prefix``, which is ours: first part of the names of all our keys.
    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    socket: str | None
    database: int
    user: str | None
    password: str | None
    tls: dict[str, Any] | None
    prefix: str = DEFAULT_PREFIX
    master: str = ""
    sentinel_user: str | None = None
    sentinel_password: str | None = None

    def __repr__(self) -> str:
        return f"<Redis {self.database} at {self.socket or ','.join(f'{host}:{port}' for host, port in self.hosts)}>"

    @property
    def connection_class(self) -> type[AbstractConnection]:
        """redis-py's kind of connection."""
        if self.socket is not None:
            return UnixDomainSocketConnection
        return Connection if self.tls is None else SSLConnection

    def connection_arguments(self) -> dict[str, Any]:
        """Arguments of :attr:`connection_class`. Those of a connection to a master lack its address."""
        place: dict[str, Any] = {}
        if self.socket is not None:
            place = {"path": self.socket}
        elif self.kind == "server":
            place = dict(zip(("host", "port"), self.hosts[0], strict=True))
        return {**place, "db": self.database, **self.account(), **(self.tls or {})}

    def node_arguments(self, host: str, port: int) -> dict[str, Any]:
        """Arguments of a connection to one of the hosts: a Sentinel, or a node of a cluster."""
        account = self.account()
        if self.kind == "sentinel":
            account = {"username": self.sentinel_user, "password": self.sentinel_password}
        return {"host": host, "port": port, **account, **(self.tls or {})}

    def cluster_arguments(self) -> dict[str, Any]:
        """Arguments of redis-py's client of a cluster."""
        return {**self.account(), "ssl": self.tls is not None, **(self.tls or {})}

    def account(self) -> dict[str, Any]:
        """User and password at the server, by the names that redis-py and arq give them."""
        return {} if self.password is None else {"username": self.user, "password": self.password}


def read_redis_url(url: str) -> RedisUrl:
    """Read the URL of a Redis.

    Raises:
        InvalidUrl: It is not a URL of Redis, or has an argument that is not known; names the argument.
    """
    parts = split_url(url)
    if parts.scheme not in _SCHEMES:
        raise InvalidUrl("it does not begin with redis:// or rediss://, or with redis+sentinel:// or redis+cluster://")
    kind, has_tls = _SCHEMES[parts.scheme]
    if kind == "server" and len(parts.hosts) > 1:
        raise InvalidUrl("expected one host: write redis+sentinel:// for Sentinels, or redis+cluster:// for a cluster")
    options = dict(parts.options)
    is_socket = parts.scheme == "unix"
    master, database = _master_and_database(kind, "" if is_socket else parts.path)
    database = options.pop("db", database or "0")
    if not database.isascii() or not database.isdigit():
        raise InvalidUrl(f"expected the number of a database behind {_BEFORE_DATABASE[kind]}, for example /0")
    if kind == "cluster" and int(database):
        raise InvalidUrl("expected database 0, because a cluster has no other")
    user, password = options.pop("username", parts.user), options.pop("password", parts.password)
    sentinel_account = [options.pop(name, None) if kind == "sentinel" else None for name in _SENTINEL_ACCOUNT]
    prefix = options.pop("prefix", DEFAULT_PREFIX)
    if not PREFIX.fullmatch(prefix):
        raise InvalidUrl("expected the argument prefix to be letters, digits, and - _ . or : between them")
    tls = _tls_of(options, is_on=has_tls)
    for name in sorted(options.keys() - _LEFT_OUT):
        raise InvalidUrl(f"the argument {name} is not known: remove it from the URL")
    return RedisUrl(
        kind=kind,
        hosts=tuple((host, port or _DEFAULT_PORTS[kind]) for host, port in parts.hosts or (("localhost", None),)),
        socket=parts.path if is_socket else None,
        database=int(database),
        user=user,
        password=password,
        tls=tls,
        prefix=prefix,
        master=master,
        sentinel_user=sentinel_account[0],
        sentinel_password=sentinel_account[1],
    )


_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("server", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_SENTINEL_ACCOUNT = ("sentinel_username", "sentinel_password")
_BEFORE_DATABASE: dict[Kind, str] = {"server": "the port", "sentinel": "the master's name", "cluster": "the port"}


def _master_and_database(kind: Kind, path: str) -> tuple[str, str]:
    """The name of a master, and the number of a database, each empty if it is missing."""
    if kind != "sentinel":
        return "", path.strip("/")
    master, _, database = path.strip("/").partition("/")
    if not master:
        raise InvalidUrl("expected the master's name behind the Sentinels, for example host:26379/mymaster/0")
    return master, database


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
