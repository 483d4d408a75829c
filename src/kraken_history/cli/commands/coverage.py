"""The options of ``coverage``."""

from typing import Annotated

import typer

from kraken_history.cli.instants import MOST_DAYS, range_options
from kraken_history.cli.loading import loading
from kraken_history.errors import UsageError
from kraken_history.intervals import parse_interval


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("coverage")(_coverage)


def _coverage(
    symbols: Annotated[
        list[str] | None, typer.Argument(metavar="[SYMBOL...]", help="For example BTC/USDT. Default: all stored ones.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All stored symbols, as without a SYMBOL.")] = False,
    from_: Annotated[
        str | None, typer.Option("--from", help="Start time (default: the oldest stored data); UTC without an offset.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="End time, not included (default: now).")] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=MOST_DAYS, help="Instead of --from: this many days before --to, or now.")
    ] = None,
    interval: Annotated[
        str,
        typer.Option(help="For candles of this length: Kraken's hours and days may be there without their minutes."),
    ] = "1",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show how complete the history is: by day, in total, and where it is missing.

    Time is proven (all trades are stored), covered by candles of the exchange, quiet (nobody traded), or missing. Each
    missing range comes with the command that fills it.

    Example: kraken-history coverage BTC/USDT --from 2026-01-01
    """
    if symbols and all_:
        raise UsageError("expected either SYMBOL or --all")
    with loading():
        from kraken_history.cli.coverage import run_coverage
        from kraken_history.settings import load_settings
    (start, end), minutes = range_options(from_, to, days), parse_interval(interval)
    run_coverage(load_settings(), symbols or [], start=start, end=end, interval=minutes, as_json=as_json)
