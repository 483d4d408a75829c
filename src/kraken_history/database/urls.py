"""The URL of a database, read once, and given to each client in the form that this client understands.

Two clients read the same URL: asyncpg, and libpq inside ADBC. Providers write it for libpq, and frameworks add
arguments of their own. asyncpg would send each argument that it does not know to the server as a setting of the
session, and libpq would refuse it.
"""

import os
import ssl
from typing import Any
from urllib.parse import quote, urlencode

from msgspec import Struct

from kraken_history.urls import InvalidUrl, UrlParts, port_of, split_url

EXAMPLE = "postgresql://user:password@host:5432/name"

CONNECT_TIMEOUT_S = 10.0
"""Longest wait for a connection, in seconds, unless ``connect_timeout`` is in the URL."""

SILENCE_S = 30
"""Seconds of silence after which a connection is closed, if the platform allows.

The server's kernel sends acknowledgements during a longer statement, so none is cut while the network works.
"""

_BOTH = frozenset(
    {
        *("passfile", "service", "target_session_attrs", "krbsrvname", "gsslib"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version"),
    }
)
"""Arguments that mean the same to asyncpg and libpq."""

_LIBPQ_ONLY = frozenset(
    {
        *("channel_binding", "connect_timeout", "tcp_user_timeout", "client_encoding", "gssencmode", "gssdelegation"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "load_balance_hosts"),
        *("sslcompression", "sslsni", "sslcertmode", "application_name", "fallback_application_name"),
    }
)
"""Arguments of libpq without which asyncpg connects just as well."""

_UNSAFE_TO_DROP = frozenset({"requirepeer", "require_auth", "sslcrldir", "replication"})
"""Arguments of libpq that asyncpg lacks, and without which it would connect to a server that must be refused."""

_OURS = frozenset({"pgbouncer", "statement_cache_size", "prepared_statement_cache_size"})
"""Arguments of other drivers that switch prepared statements off; neither client may see them."""

_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_YES = frozenset({"true", "1", "yes", "on"})
_NO = frozenset({"false", "0", "no", "off", ""})


class DatabaseUrl(Struct, frozen=True):
    """A database's address. Its repr shows host, port and database only.

    Attributes:
        tls: Arguments for both clients, mostly about TLS.
        libpq: Arguments for libpq only.
        settings: Settings of the session.
        is_pooled: Whether a pooler in transaction mode answers; None if the URL does not say.
    """

    user: str | None
    password: str | None
    hosts: tuple[tuple[str, int | None], ...]
    name: str | None
    tls: dict[str, str]
    libpq: dict[str, str]
    settings: dict[str, str]
    is_pooled: bool | None

    def __repr__(self) -> str:
        return f"<database {self.name} at {self.hosts}>"

    def asyncpg_arguments(self) -> dict[str, Any]:
        """Arguments of ``asyncpg.connect``. The password is beside the DSN, so that no error can quote it.

        Raises:
            InvalidUrl: A file of TLS cannot be read.
        """
        for name in _FILES:
            if (path := self.tls.get(name)) and not (name == "sslrootcert" and path == "system"):
                _check_readable(name, path)
        tls = dict(self.tls)
        context = _system_trust(tls) if tls.get("sslrootcert") == "system" else None
        settings = dict(self.settings)
        named = self.libpq.get("application_name") or self.libpq.get("fallback_application_name")
        return {
            "dsn": self._dsn(None, tls),
            **({} if self.password is None else {"password": self.password}),
            **({} if context is None else {"ssl": context}),
            "timeout": self._connect_timeout_s,
            "server_settings": settings | ({"application_name": named} if named else {}),
        }

    def writers_arguments(self) -> dict[str, Any]:
        """As :meth:`asyncpg_arguments`, but of several hosts, the first that takes writes, unless the URL says which.

        Raises:
            InvalidUrl: A file of TLS cannot be read.
        """
        arguments = self.asyncpg_arguments()
        if len(self.hosts) > 1 and "target_session_attrs" not in self.tls:
            arguments["target_session_attrs"] = "read-write"
        return arguments

    def libpq_url(self) -> str:
        """The URL for libpq. It contains the password."""
        options = dict(self.tls) | self.libpq
        settings = dict(self.settings)
        given = [settings.pop("options")] if "options" in settings else []
        given += [f"-c {name}={_escaped(value)}" for name, value in settings.items()]
        if given:
            options["options"] = " ".join(given)
        if options.get("sslrootcert") == "system":
            options["sslmode"] = "verify-full"
        times = {"connect_timeout": str(int(self._connect_timeout_s))} | _TIMES
        return self._dsn(self.password, options | times)

    @property
    def _connect_timeout_s(self) -> float:
        given = self.libpq.get("connect_timeout", "")
        return float(given) if given.isascii() and given.isdigit() and int(given) > 0 else CONNECT_TIMEOUT_S

    def _dsn(self, password: str | None, options: dict[str, str]) -> str:
        account = "" if self.user is None else quote(self.user, safe="")
        account += "" if password is None else f":{quote(password, safe='')}"
        hosts = ",".join(_host(*pair) for pair in self.hosts)
        name = "" if self.name is None else f"/{quote(self.name, safe='')}"
        query = urlencode(options, quote_via=quote, safe="")
        return f"postgresql://{account}{'@' if account else ''}{hosts}{name}{'?' if query else ''}{query}"


def read_database_url(url: str) -> DatabaseUrl:
    """Read a database's URL.

    Raises:
        InvalidUrl: It is not a URL of PostgreSQL, or has an argument that cannot be honoured; names the argument.
    """
    parts = split_url(url)
    if parts.scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise InvalidUrl("it does not begin with postgresql://")
    options = dict(parts.options)
    user, password = options.pop("user", parts.user), options.pop("password", parts.password)
    database = options.pop("database", None)
    name = options.pop("dbname", database) or parts.path.removeprefix("/") or None
    hosts = _hosts_of(parts, options)
    is_pooled = _is_pooled(options)
    _use_ssl_argument(options)
    for unsafe in _UNSAFE_TO_DROP & options.keys():
        raise InvalidUrl(f"the argument {unsafe} is not supported: remove it from the URL")
    if options.get("gssencmode") == "require":
        raise InvalidUrl("the argument gssencmode=require is not supported: remove it from the URL")
    return DatabaseUrl(
        user=user,
        password=password,
        hosts=hosts,
        name=name,
        tls={key: options.pop(key) for key in sorted(options.keys() & _BOTH)},
        libpq={key: options.pop(key) for key in sorted(options.keys() & _LIBPQ_ONLY)},
        settings=options,
        is_pooled=is_pooled,
    )


def _hosts_of(parts: UrlParts, options: dict[str, str]) -> tuple[tuple[str, int | None], ...]:
    names, ports = options.pop("host", ""), options.pop("port", "")
    hosts = list(parts.hosts) or [_named_host(name) for name in names.split(",") if name]
    if not ports:
        return tuple(hosts)
    numbers = [port_of(f":{port}") for port in ports.split(",")]
    if len(numbers) == 1:
        numbers *= max(len(hosts), 1)
    if len(numbers) != len(hosts or numbers):
        raise InvalidUrl("expected one port per host in the argument port")
    hosts = hosts or [("localhost", None) for _ in numbers]
    return tuple((host, given or port) for (host, given), port in zip(hosts, numbers, strict=True))


def _named_host(text: str) -> tuple[str, int | None]:
    """A host of the argument ``host``: a path, an IPv6 address without brackets, or a name, with its port or not."""
    if text.startswith("/") or text.count(":") != 1:
        return text.removeprefix("[").removesuffix("]"), None
    name, _, port = text.partition(":")
    return name, port_of(f":{port}")


def _is_pooled(options: dict[str, str]) -> bool | None:
    given = {name: options.pop(name).lower() for name in sorted(_OURS & options.keys())}
    if (value := given.pop("pgbouncer", None)) is not None:
        if value not in _YES | _NO:
            raise InvalidUrl("expected the argument pgbouncer to be true or false")
        return value in _YES
    return True if "0" in given.values() else None


def _use_ssl_argument(options: dict[str, str]) -> None:
    """Replace ``ssl``, which asyncpg and other drivers take, by ``sslmode``."""
    if (given := options.pop("ssl", None)) is not None:
        mode = "require" if given.lower() in _YES else "disable" if given.lower() in _NO else given
        options.setdefault("sslmode", mode)


def _check_readable(name: str, path: str) -> None:
    if not os.access(path, os.R_OK):
        state = "cannot be read by this account" if os.path.exists(path) else "does not exist"
        raise InvalidUrl(f"the file of the argument {name} {state}: {path!r}")


def _system_trust(tls: dict[str, str]) -> ssl.SSLContext:
    """Trust what the machine trusts, and check the host's name, as libpq does for ``sslrootcert=system``."""
    context = ssl.create_default_context()
    tls.pop("sslrootcert")
    tls.pop("sslmode", None)
    if certificate := tls.pop("sslcert", None):
        context.load_cert_chain(certificate, tls.pop("sslkey", None), tls.pop("sslpassword", None))
    return context


def _host(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else quote(host, safe="")
    return shown if port is None else f"{shown}:{port}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


# The times that `connections` sets on asyncpg's sockets.
_TIMES = {
    "keepalives_idle": str(SILENCE_S // 2),
    "keepalives_interval": str(SILENCE_S // 6),
    "keepalives_count": "3",
    "tcp_user_timeout": str(1_000 * SILENCE_S),
}
