"""URLs of databases and Redis servers: split without ever quoting a password, and as messages may show them.

Python's own parsers, and those of the drivers, quote the part that they do not understand. If a password contains
``#`` or ``/``, that part is the password.
"""

import re
from urllib.parse import unquote, unquote_plus

from msgspec import Struct

ENCODE = "percent-encode special characters of the user and password: @ is %40, : %3A, / %2F, # %23, ? %3F, % %25"
"""The remedy for most URLs that cannot be read."""

DEFAULT_PREFIX = "kraken"
"""First part of the names of all our keys, unless ``REDIS_PREFIX`` is set."""

PREFIX = re.compile(r"[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)*")
"""A prefix that is neither a pattern of keys nor a hash tag."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_END_OF_HOSTS = re.compile(r"[/?#]")
_OPTION_NAME = re.compile(r"[A-Za-z_][\w.]*")
_HOST = re.compile(r"\[(?P<ipv6>[^\[\]]*)\](?P<rest>.*)|(?P<name>[^:\[\]]*)(?P<more>.*)", re.DOTALL)
_ILLEGIBLE = "the address in the URL"


class InvalidUrl(ValueError):
    """A URL cannot be read. The message quotes no part of the URL, because any part may be one of the password."""


class UrlOfSetting(str):
    """A URL with the name of its setting, so that a message can say which one to correct."""

    __slots__ = ("setting",)

    setting: str

    def __new__(cls, url: str, setting: str) -> "UrlOfSetting":
        made = super().__new__(cls, url)
        made.setting = setting
        return made


class UrlParts(Struct, frozen=True):
    """The parts of a URL, decoded. Its repr shows no account and no options.

    Attributes:
        hosts: Host and port, in order; the port is None if the URL has none.
        path: What follows the hosts, with its leading slash.
        options: The arguments after the ``?``; of several with one name, the last.
    """

    scheme: str
    user: str | None
    password: str | None
    hosts: tuple[tuple[str, int | None], ...]
    path: str
    options: dict[str, str]

    def __repr__(self) -> str:
        return f"<URL of {self.place}>"

    @property
    def place(self) -> str:
        """Host, port and path, which is what a message may show."""
        places = [_host(*pair) for pair in self.hosts] or [_host(self.options.get("host", ""), None)]
        return ",".join(places) + self.path


def split_url(url: str) -> UrlParts:
    """Split a URL.

    Where its user and password end is certain: a URL in which an unencoded character of the password could end them
    too early is refused.

    Raises:
        InvalidUrl: It is not a URL, or has characters that must be percent-encoded.
    """
    if not isinstance(url, str):
        raise InvalidUrl(f"got a {type(url).__name__} instead of text")
    scheme, mark, rest = url.strip().partition("://")
    if not mark or not _SCHEME.fullmatch(scheme):
        raise InvalidUrl("it does not begin with a scheme and ://")
    end = _END_OF_HOSTS.search(rest)
    authority, tail = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    if "@" in tail or "#" in tail:
        raise InvalidUrl(ENCODE)
    account, _, hosts = authority.rpartition("@")
    user, colon, password = account.partition(":")
    path, _, query = tail.partition("?")
    parts = UrlParts(
        scheme,
        unquote(user) if user else None,
        unquote(password) if colon else None,
        tuple(_split_host(host) for host in hosts.split(",")) if hosts else (),
        unquote(path),
        _split_options(query),
    )
    _check_text(parts)
    return parts


def without_password(url: str) -> str:
    """Host, port and path of a URL, which is what a message may show. Never raises."""
    try:
        return split_url(url).place
    except InvalidUrl:
        return _ILLEGIBLE


def without_account(url: str) -> str:
    """A URL of HTTP or a WebSocket without user, password and query, as a message may show it. Never raises."""
    try:
        parts = split_url(url)
    except InvalidUrl:
        return _ILLEGIBLE
    return f"{parts.scheme}://{parts.place}"


def with_prefix(url: str, prefix: str) -> str:
    """A Redis' URL that also carries the prefix of our keys. Leaves a URL alone that has one, or cannot be read."""
    try:
        has_one = "prefix" in split_url(url).options
    except InvalidUrl:
        return url
    if has_one or prefix == DEFAULT_PREFIX:
        return url
    return f"{url}{'&' if '?' in url else '?'}prefix={prefix}"


def is_cluster(url: str) -> bool:
    """True if the URL of a Redis names a cluster."""
    return url.strip().partition("://")[0] in ("redis+cluster", "rediss+cluster")


def _split_host(text: str) -> tuple[str, int | None]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise InvalidUrl(f"expected a host and a port; {ENCODE}")
    host, rest = (found["ipv6"], found["rest"]) if found["ipv6"] is not None else (found["name"], found["more"])
    port = port_of(rest)
    if not host and port is None:
        raise InvalidUrl(f"expected a host between two commas; {ENCODE}")
    return unquote(host) or "localhost", port


def port_of(text: str) -> int | None:
    """The port in ``:5432``; None if there is none.

    Raises:
        InvalidUrl: It is not a port.
    """
    digits = text.removeprefix(":")
    if not digits:
        return None
    is_number = text.startswith(":") and digits.isascii() and digits.isdigit()
    if not is_number or not 0 < int(digits[:6]) <= 65535:
        raise InvalidUrl(f"expected a port from 1 to 65535 behind the host; {ENCODE}")
    return int(digits)


def _split_options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, is_, value = part.partition("=")
        if not is_ or not _OPTION_NAME.fullmatch(name):
            raise InvalidUrl(f"expected arguments like ?name=value&name=value; {ENCODE}")
        options[name] = unquote(value) if name.endswith("password") else unquote_plus(value)
    return options


def _check_text(parts: UrlParts) -> None:
    texts = [parts.scheme, parts.user, parts.password, parts.path, *parts.options.values()]
    for text in [*texts, *(host for host, _ in parts.hosts)]:
        if text and ("\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text)):
            raise InvalidUrl("it contains a NUL, or bytes that are not UTF-8")


def _host(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"
