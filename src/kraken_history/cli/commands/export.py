"""The options of ``export``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kraken_history.cli.loading import loading


class FileFormat(StrEnum):
    """File formats of an export."""

    CSV = "csv"
    PARQUET = "parquet"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(_export)


def _export(
    symbols: Annotated[list[str] | None, typer.Argument(metavar="SYMBOL", help="For example BTC/USDT.")] = None,
    interval: Annotated[int, typer.Option(help="Candle length in minutes, as for `candles`.")] = 1,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Start time, ISO 8601, by default in UTC. Default: the oldest stored data."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="End time (default: now). Candles still open then are left out.")
    ] = None,
    format_: Annotated[
        FileFormat | None,
        typer.Option("--format", help="File format. Default: by the ending of --output, or csv."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="File, or - for standard output. Default: such as BTC-USDT_60.csv. Of several symbols: the folder."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    trades: Annotated[bool, typer.Option("--trades", help="Write trades instead of candles.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Write one file for each stored symbol.")] = False,
) -> None:
    """Write stored candles or trades into a CSV or Parquet file, oldest first; of several symbols, one file each.

    Memory use does not grow with the range. CSV has every digit. Parquet stores decimal128(38, 18), compressed
    with zstd, and needs the extra `arrow`. The file gets its name only when it is complete.

    Example: kraken-history export BTC/USDT --interval 60 --from 2025-01-01 --format parquet
    """
    with loading():
        from kraken_history.cli.export_many import run_command
    run_command(symbols, interval, from_, to, format_=format_, output=output, force=force, trades=trades, all_=all_)
