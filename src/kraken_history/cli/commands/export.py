"""The options of ``export``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kraken_history.cli.loading import loading


class FileFormat(StrEnum):
    """What an export can be."""

    CSV = "csv"
    PARQUET = "parquet"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(_export)


def _export(
    symbol: Annotated[str, typer.Argument(help="For example BTC/USDT.")],
    interval: Annotated[int, typer.Option(help="Length in minutes, as for `candles`.")] = 1,
    from_: Annotated[
        str | None, typer.Option("--from", help="First time, ISO 8601; by default the oldest that is stored.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="End; a candle that is not closed then is left out. Now.")] = None,
    format_: Annotated[
        FileFormat | None, typer.Option("--format", help="What to write; by default as --output ends, else csv.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where; by default BTC-USDT_60.csv here, and - is standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write candles into a file, oldest first, in memory that does not grow with the range.

    CSV has every digit as it is stored. Parquet has decimal128(38, 18), is compressed with zstd, and needs the extra
    `arrow`. The file takes its name when it is complete.

    Example: kraken-history export BTC/USDT --interval 60 --from 2025-01-01 --format parquet
    """
    with loading():
        from kraken_history.cli.export import run_command
    run_command(symbol, interval, from_, to, format_=format_, output=output, force=force)
