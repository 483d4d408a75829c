"""The options of ``import-csv``."""

from pathlib import Path
from typing import Annotated

import typer

from kraken_history.cli.loading import loading


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import-csv")(_import_csv)


def _import_csv(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Files, folders, and zips as Kraken offers them.")
    ],
    symbol: Annotated[
        str | None, typer.Option(help="What the files are of, if their names do not say it: BTC/USDT.")
    ] = None,
    worker: Annotated[
        bool, typer.Option("--worker", help="Have the worker do it, which must see the files under the same paths.")
    ] = False,
) -> None:
    """Store the candles and trades of Kraken's downloads.

    XBTUSDT_1.csv holds one-minute candles, XBTUSDT.csv trades, of which one-minute candles are built. Longer candles
    are computed from those of one minute and are skipped. A file is stored as a whole or not at all; a file that is
    refused does not keep back the others, and makes the exit code 1. Doing it again changes nothing.

    Example: kraken-history import-csv Kraken_OHLCVT.zip
    """
    with loading():
        from kraken_history.cli.import_csv import run_command
    run_command(paths, symbol, worker=worker)
