"""``export --trades``: write the trades of any range into a file."""

import asyncio
import csv
import io
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, get_args

import msgspec

from kraken_history.cli import servers as server_choice
from kraken_history.cli.candles import texts_of
from kraken_history.cli.commands.export import FileFormat
from kraken_history.cli.export import (
    ExportBar,
    Wanted,
    check_target_or_output,
    find_status,
    target,
)
from kraken_history.cli.gaps_option import Gaps
from kraken_history.cli.whole_file import check_target
from kraken_history.errors import InvalidChoice
from kraken_history.intervals import Span
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.candles import Extent
from kraken_history.reading.database import Database
from kraken_history.reading.gaps import TradeGapsChoice
from kraken_history.reading.trades import read_extent
from kraken_history.records import HistoricalTrade
from kraken_history.settings import Settings

FIELDS = HistoricalTrade.__struct_fields__
PARQUET_ROWS = 100_000
"""Trades per row group of a Parquet file, and so in memory. A CSV file is written trade by trade."""

_SHOWN_EVERY = 10_000  # trades between two updates of the bar
_BEGINNING = datetime(2011, 1, 1, tzinfo=UTC)  # Kraken opened later in that year


def run_export_trades(
    settings: Settings, wanted: Wanted, format_: FileFormat, output: Path | None, *, replaces: bool
) -> None:
    """Write the file and say how many trades it has.

    Raises:
        UsageError: The symbol or the file is not valid. Except for the symbol, raised before any server is started.
    """
    if wanted.gaps.pads:
        raise InvalidChoice("--gaps", wanted.gaps.value, get_args(TradeGapsChoice))
    path = check_target_or_output(format_, output, replaces=replaces)
    with server_choice.database(settings) as database_url:
        asyncio.run(_write(database_url, wanted, format_, path, replaces=replaces))


def trades_file(symbol: str, format_: FileFormat) -> Path:
    """The name of a file of trades: ``BTC-USDT_trades.csv``."""
    return Path(f"{symbol.replace('/', '-')}_trades.{format_}")


async def _write(database_url: str, wanted: Wanted, format_: FileFormat, path: Path | None, *, replaces: bool) -> None:
    async with HistoricalDataProvider(database_url, pool_min_size=1, pool_max_size=1) as provider:
        status = await find_status(provider, wanted.symbol)
        symbol = status.symbol
        wanted = msgspec.structs.replace(wanted, symbol=symbol)
        if path is None:
            path = check_target(trades_file(symbol, format_), replaces=replaces)
        trades, shown = await trades_to_write(provider, database_url, wanted)
        write = _write_csv if format_ is FileFormat.CSV else _write_parquet
        with target(path) as file, ExportBar(*shown) as bar:
            async with aclosing(trades):
                rows = await write(_shown(trades, bar), file)
    where = "standard output" if str(path) == "-" else path
    sys.stderr.write(f"{rows:,} trade(s) of {symbol} written to {where}\n")


async def trades_to_write(
    provider: HistoricalDataProvider, database_url: str, wanted: Wanted
) -> tuple[AsyncGenerator[HistoricalTrade, None], Span]:
    """The wanted trades of a stored symbol, by time, and the part of the range that can hold stored trades."""
    extent = await _extent(database_url, wanted.symbol)
    start, end = wanted.start or extent.oldest or _BEGINNING, wanted.end
    shown = max(start, extent.oldest or start), min(end, extent.newest or end)
    return _trades(provider, wanted, wanted.symbol, (start, end), extent), shown


async def _extent(database_url: str, symbol: str) -> Extent:
    database = Database(database_url, 1, 1)
    await database.open()
    try:
        return await read_extent(database, symbol)
    finally:
        await database.close()


async def _trades(
    provider: HistoricalDataProvider, wanted: Wanted, symbol: str, span: Span, extent: Extent
) -> AsyncGenerator[HistoricalTrade, None]:
    """The trades of the range. If no end is given, the history ends with the newest trade, of whatever age.

    A trade covers no time, since others may share its instant. So the newest one is read without a check.
    """
    ends_with_history = wanted.gaps is Gaps.RAISE and wanted.ends_with_history and extent.newest is not None
    gaps: TradeGapsChoice = "raise" if wanted.gaps is Gaps.RAISE else "ignore"
    start, end = span
    if ends_with_history and extent.newest is not None:
        end = min(end, extent.newest)
    if start < end:
        async with aclosing(provider.replay_trades(symbol, start, end, 0, gaps=gaps)) as trades:
            async for trade in trades:
                yield trade
    if ends_with_history and end < span[1]:
        for trade in await provider.get_trades(symbol, max(start, end), span[1], gaps="ignore"):
            yield trade


async def _shown(
    trades: AsyncGenerator[HistoricalTrade, None], bar: ExportBar
) -> AsyncGenerator[HistoricalTrade, None]:
    count = 0
    async for trade in trades:
        yield trade
        count += 1
        if not count % _SHOWN_EVERY:
            bar.show(trade.timestamp)


async def _write_csv(trades: AsyncGenerator[HistoricalTrade, None], file: BinaryIO) -> int:
    text, rows = io.TextIOWrapper(file, encoding="utf-8", newline=""), 0
    try:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(FIELDS)
        async for trade in trades:
            writer.writerow(texts_of(trade, FIELDS))
            rows += 1
        return rows
    finally:
        text.detach()  # otherwise the wrapper would close a file that it does not own


async def _write_parquet(trades: AsyncGenerator[HistoricalTrade, None], file: BinaryIO) -> int:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    from kraken_history.reading.columns import long_numbers_refused
    from kraken_history.reading.trade_columns import trade_schema

    schema, rows = trade_schema("decimal"), 0
    page: list[HistoricalTrade] = []
    with ParquetWriter(file, schema, compression="zstd") as writer:

        def write_page() -> None:
            with long_numbers_refused(page[0].symbol):
                arrays = [pyarrow.array([getattr(trade, field.name) for trade in page], field.type) for field in schema]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            page.clear()

        async for trade in trades:
            page.append(trade)
            rows += 1
            if len(page) == PARQUET_ROWS:
                write_page()
        if page:
            write_page()
    return rows
