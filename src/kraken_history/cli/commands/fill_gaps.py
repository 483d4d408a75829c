"""The options of ``fill-gaps``."""

from typing import Annotated

import typer

from kraken_history.cli.loading import loading
from kraken_history.completeness.gap_length import MIN_GAP_MINUTES


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fill-gaps")(_fill_gaps)


def _fill_gaps(
    symbol: Annotated[str | None, typer.Option(help="Only this one, for example BTC/USDT.")] = None,
    min_gap_minutes: Annotated[
        float, typer.Option(help="Shorter gaps at the end of the history do not count.")
    ] = MIN_GAP_MINUTES,
    wait: Annotated[bool, typer.Option("--wait", help="Do it here and now, and print the summary.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")] = False,
) -> None:
    """Look for what is missing and fetch it from Kraken.

    Missing trades inside, the time since the newest one, and the history that HISTORY_DAYS wants. The worker does it,
    now as every five minutes; with --wait this command does, at the worker's rate limit, and exits with 1 if
    something could not be fetched.

    Example: kraken-history fill-gaps --symbol BTC/USDT --wait
    """
    with loading():
        from kraken_history.cli.gaps import run_command
    run_command(symbol, min_gap_minutes, wait=wait, as_json=as_json)
