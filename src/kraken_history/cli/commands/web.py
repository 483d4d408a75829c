"""The options of ``web``."""

from typing import Annotated

import typer

from kraken_history.cli.loading import loading


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("web")(_web)


def _web(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default: WEB_PORT, else 8765.")] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. Default: WEB_HOST, else 127.0.0.1, this machine only.")
    ] = None,
) -> None:
    """Serve the history over HTTP, for everything that is not Python.

    The API is below /api/v1, and its documentation at /api/docs. On an address that other machines reach, every
    request needs WEB_TOKEN.

    Example: kraken-history web --port 8765
    """
    with loading():
        from kraken_history.cli.web import run_web
        from kraken_history.settings import load_settings
    run_web(load_settings(), host=host, port=port)
