"""The options of ``backfill``."""

from typing import Annotated

import typer

from kraken_history.cli.loading import loading


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("backfill")(_backfill)


def _backfill(
    symbol: Annotated[str | None, typer.Argument(help="For example BTC/USDT.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="First time, ISO 8601, in UTC unless it says otherwise.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="End; by default now.")] = None,
    follows: Annotated[bool, typer.Option("--follow", help="Show how far it is, until it is done.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show all backfills, or the symbol's.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Stop all for now, or the symbol's.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Let paused and failed ones go on.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Give up; what is stored stays.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --status: write JSON, for programs.")] = False,
) -> None:
    """Fetch the trades of a symbol from Kraken, by default all that there ever were.

    The worker does it, and goes on after any interruption; what is stored already is not fetched again.

    Example: kraken-history backfill BTC/USDT --from 2025-01-01 --follow
    """
    with loading():
        from kraken_history.cli.backfill import run_command
    run_command(
        symbol,
        from_,
        to,
        follows=follows,
        status=status,
        pause=pause,
        resume=resume,
        cancel=cancel,
        as_json=as_json,
    )
