"""Who may ask: by the address that the server listens on, and by the token."""

import ipaddress
import secrets
from collections.abc import Sequence

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kraken_history.errors import UsageError
from kraken_history.web.problems import problem

OPEN_PATHS = ("/healthz", "/readyz")
"""What a load balancer asks needs no token. It tells nothing but that the server is there."""

_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """True if only programs of this machine reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(host: str, token: SecretStr | None) -> None:
    """Check that a server which others reach has a token.

    Raises:
        UsageError: It has none, or a short one.
    """
    if not is_loopback(host) and token is None:
        raise UsageError(f"expected WEB_TOKEN to be set, because WEB_HOST {host} can be reached by other machines")
    if token is not None and len(token.get_secret_value()) < SHORTEST_TOKEN:
        raise UsageError(f"expected a WEB_TOKEN of at least {SHORTEST_TOKEN} characters, got a shorter one")


SHORTEST_TOKEN = 16
"""Characters of the shortest token that is taken: nobody guesses it over a network."""


class Gate:
    """Middleware: refuses requests without the token, and those that a page of somebody else makes a browser send.

    A browser sends the name that a page asked for as ``Host``. If that name is not one of ours, somebody made it point
    to this machine.

    Args:
        token: What a client must send as ``Authorization: Bearer``; None if reads need none.
        names: The names under which the server may be asked. Empty: any.
    """

    def __init__(self, app: ASGIApp, *, token: SecretStr | None, names: Sequence[str]) -> None:
        self._app = app
        self._token = token
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._names and _name_of(headers) not in self._names:
            return problem(400, "Invalid request", f"expected the host {self._names[0]}, got another name")
        if self._token is not None and scope["path"] not in OPEN_PATHS and not self._has_token(headers):
            return problem(401, "Token needed", "expected the header `Authorization: Bearer` with WEB_TOKEN")
        return None

    def _has_token(self, headers: Headers) -> bool:
        assert self._token is not None
        kind, _, given = headers.get("authorization", "").partition(" ")
        expected = self._token.get_secret_value().encode()
        return kind.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), expected)


def local_names(host: str) -> Sequence[str]:
    """The names under which a server on a loopback address is asked; empty for any other address."""
    return (*_LOCAL_NAMES, f"[{host}]" if ":" in host else host) if is_loopback(host) else ()


def _name_of(headers: Headers) -> str:
    host = headers.get("host", "").lower()
    name, separator, port = host.rpartition(":")
    return name if separator and port.isdigit() else host
