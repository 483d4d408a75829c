"""``web``: serves the HTTP API until it is stopped."""

import importlib
import socket
import sys

from kraken_history.cli import servers as server_choice
from kraken_history.errors import MissingExtra, UsageError
from kraken_history.settings import Settings

PACKAGES = ("fastapi", "fastapi_offline", "uvicorn")
"""The packages of the extra ``web``."""


def run_web(settings: Settings, *, host: str | None, port: int | None) -> None:
    """Serve until a signal comes.

    Raises:
        MissingExtra: The extra ``web`` is not installed.
        UsageError: The address cannot be used, or others reach it and there is no token.
    """
    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingExtra(package, "web") from error
    from kraken_history.web.access import check_token
    from kraken_history.web.application import create_app
    from kraken_history.web.serving import serve

    host, port = host or settings.web_host, settings.web_port if port is None else port
    check_token(host, settings.web_token)
    with _listening(host, port) as listener, server_choice.database(settings) as database_url:
        app = create_app(database_url, host=host, token=settings.web_token)
        sys.stderr.write(f"{address(listener)}/api/docs describes the API; Ctrl-C stops the server\n")
        serve(app, listener)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that a port that is taken is told before anything is started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(
            f"cannot listen on {host}, port {port}: {reason}; choose another with --host or --port"
        ) from None
    return listener


def address(listener: socket.socket) -> str:
    """The URL of the server."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
