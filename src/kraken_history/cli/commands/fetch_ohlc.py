"""The options of ``fetch-ohlc``."""

from typing import Annotated

import typer

from kraken_history.cli.loading import loading


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fetch-ohlc")(_fetch_ohlc)


def _fetch_ohlc(
    symbols: Annotated[
        list[str] | None, typer.Argument(metavar="[SYMBOL]...", help="For example BTC/USDT. Default: all of SYMBOLS.")
    ] = None,
) -> None:
    """Fetch Kraken's own latest candles of each interval, in seven calls per symbol.

    Kraken gives 720 candles of each: two years of days, four months of 4 hours, a month of hours. They serve charts and
    daily strategies at once, and candles from trades replace them as a backfill proceeds. The worker does the same for
    each new symbol, and once a day.

    Example: kraken-history fetch-ohlc BTC/USDT ETH/USDT
    """
    with loading():
        from kraken_history.cli.fetch_ohlc import run_command
    run_command(symbols or [])
