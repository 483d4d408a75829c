"""The options of ``refresh``."""

from typing import Annotated

import typer

from kraken_history.cli.loading import loading


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("refresh")(_refresh)


def _refresh(
    from_: Annotated[str | None, typer.Option("--from", help="Start time, as for `candles`.")] = None,
    to: Annotated[str | None, typer.Option(help="End time, not included. Default: now.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Update the stored candles of 5 minutes to 1 week, as the worker does every minute.

    Without --from and --to, updates candles whose data changed since the last refresh. Open candles are not stored:
    they are computed when read. Candles whose one-minute candles were deleted are kept as they are.

    Example: kraken-history refresh --from 2026-01-01 --to 2026-02-01
    """
    with loading():
        from kraken_history.cli.refresh import run_command
    run_command(from_, to, as_json=as_json)
