"""The options of ``refresh``."""

from typing import Annotated

import typer

from kraken_history.cli.loading import loading


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("refresh")(_refresh)


def _refresh(
    from_: Annotated[
        str | None, typer.Option("--from", help="Refresh from here on, ISO 8601, in UTC unless it says otherwise.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="End, not included; by default now.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")] = False,
) -> None:
    """Bring the intervals from 5 minutes to 1 week up to date, as the worker does every minute.

    Without a time, what was written since the last refresh. Buckets that are still open are left: they are computed
    when they are read. So are buckets whose one-minute candles were dropped: those are history, and kept.

    Example: kraken-history refresh --from 2026-01-01 --to 2026-02-01
    """
    with loading():
        from kraken_history.cli.refresh import run_command
    run_command(from_, to, as_json=as_json)
