"""The options of ``fill-gaps``."""

from typing import Annotated

import typer

from kraken_history.cli.loading import loading
from kraken_history.completeness.gap_length import MIN_GAP_MINUTES


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fill-gaps")(_fill_gaps)


def _fill_gaps(
    symbol: Annotated[str | None, typer.Option(help="For example BTC/USDT. Default: all of SYMBOLS.")] = None,
    min_gap_minutes: Annotated[
        float, typer.Option(help="Ignore shorter gaps at the end of the history.")
    ] = MIN_GAP_MINUTES,
    wait: Annotated[bool, typer.Option("--wait", help="Fetch now in this command, and print a summary.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --wait: print JSON, for programs.")] = False,
) -> None:
    """Find missing data and fetch it from Kraken.

    Covers missing trades between stored ones, the time since the newest trade, and the last HISTORY_DAYS days. The
    worker fetches it, now instead of at its next check (every five minutes). With --wait, this command fetches it,
    within the rate limit it shares with the worker, and exits with 1 if something could not be fetched.

    Example: kraken-history fill-gaps --symbol BTC/USDT --wait
    """
    with loading():
        from kraken_history.cli.gaps import run_command
    run_command(symbol, min_gap_minutes, wait=wait, as_json=as_json)
