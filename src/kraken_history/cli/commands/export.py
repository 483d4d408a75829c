"""The options of ``export``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kraken_history.cli.gaps_option import HELP, Gaps
from kraken_history.cli.instants import MOST_DAYS
from kraken_history.cli.loading import loading


class FileFormat(StrEnum):
    """File formats of an export."""

    CSV = "csv"
    PARQUET = "parquet"


class Program(StrEnum):
    """Programs whose own files an export writes."""

    FREQTRADE = "freqtrade"
    NAUTILUS = "nautilus"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(_export)


def _export(
    symbols: Annotated[list[str] | None, typer.Argument(metavar="SYMBOL", help="For example BTC/USDT.")] = None,
    interval: Annotated[
        str | None, typer.Option(help="Candle length, such as 5m, 1h or 1d, as for `candles`. Default: 1m.")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Start time, as for `candles`. Default: the oldest stored data."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="End time (default: now). Candles still open then are left out.")
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=MOST_DAYS, help="Instead of --from: this many days before --to, or now.")
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
    gaps: Annotated[Gaps, typer.Option(help=HELP)] = Gaps.RAISE,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    trades: Annotated[bool, typer.Option("--trades", help="Write trades instead of candles.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Write one file for each stored symbol.")] = False,
    for_: Annotated[
        Program | None,
        typer.Option(
            "--for", help="Write the files of this program into its data folder, --output, see docs/adapters.md."
        ),
    ] = None,
) -> None:
    """Write stored candles or trades into a CSV or Parquet file, oldest first; of several symbols, one file each.

    Memory use does not grow with the range. CSV has every digit. Parquet stores decimal128(38, 18), compressed
    with zstd, and needs the extra `arrow`. The file gets its name only when it is complete.

    A file that a backtest reads must not lack data silently: if part of the range is missing, nothing is written,
    unless --gaps says otherwise. Without --from and --to, the range is that of the whole candles that are stored.

    Example: kraken-history export BTC/USDT --interval 1h --from 2025-01-01 --format parquet
    """
    with loading():
        from kraken_history.cli.export_many import run_command
        from kraken_history.errors import UsageError
    if for_ is not None and format_ is not None:
        raise UsageError("expected --for or --format, got both: the program decides about its files")
    if trades and interval is not None:
        raise UsageError("expected --interval or --trades, got both: trades have no interval")
    run_command(
        symbols,
        interval or "1m",
        from_,
        to,
        days=days,
        format_=format_,
        output=output,
        gaps=gaps,
        force=force,
        trades=trades,
        all_=all_,
        for_=for_,
    )
