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
        list[Path], typer.Argument(metavar="PATH...", help="CSV files, folders, or zip files downloaded from Kraken.")
    ],
    symbol: Annotated[
        str | None, typer.Option(help="Symbol of the files, for example BTC/USDT, if their names do not give it.")
    ] = None,
    worker: Annotated[
        bool, typer.Option("--worker", help="Let the worker import. It must be able to read the same paths.")
    ] = False,
) -> None:
    """Store the candles and trades of Kraken's downloadable CSV files.

    XBTUSDT_1.csv holds one-minute candles. XBTUSDT.csv holds trades, from which one-minute candles are built. Files of
    longer candles are skipped: these are computed from one-minute candles. A file is stored completely or not at all.
    If a file is refused, the others are still imported, and the exit code is 1. Repeating an import changes nothing.

    Example: kraken-history import-csv Kraken_OHLCVT.zip
    """
    with loading():
        from kraken_history.cli.import_csv import run_command
    run_command(paths, symbol, worker=worker)
