"""The options of ``backfill``."""

from typing import Annotated

import typer

from kraken_history.cli.instants import MOST_DAYS
from kraken_history.cli.loading import loading


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("backfill")(_backfill)


def _backfill(
    symbols: Annotated[list[str] | None, typer.Argument(metavar="SYMBOL", help="For example BTC/USDT.")] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Start time, as for `candles`. Default: the first trade."),
    ] = None,
    to: Annotated[str | None, typer.Option(help="End time. Default: now.")] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=MOST_DAYS, help="Instead of --from: this many days before --to, or now.")
    ] = None,
    follows: Annotated[
        bool,
        typer.Option("--follow", help="Show progress until it ends; of a running one, without a range."),
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="List all backfills, or only the symbol's.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Pause all backfills, or only the symbol's.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume all paused and failed ones, or the symbol's.")
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel all, or only the symbol's. Stored data is kept.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --status: print JSON, for programs.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Backfill all symbols that are stored or in SYMBOLS.")] = False,
) -> None:
    """Fetch the trade history of one or more symbols from Kraken, by default all of it.

    The worker fetches it in the background and continues after an interruption. Trades that are stored already are
    not fetched again.

    Example: kraken-history backfill BTC/USDT --from 2025-01-01 --follow
    """
    with loading():
        from kraken_history.cli.backfill_many import run_command
    run_command(
        symbols,
        from_,
        to,
        days=days,
        follows=follows,
        status=status,
        pause=pause,
        resume=resume,
        cancel=cancel,
        as_json=as_json,
        all_=all_,
    )
