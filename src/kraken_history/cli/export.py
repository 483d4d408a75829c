"""``export``: write the candles of any range into a file."""

import asyncio
import csv
import io
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TextIO

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kraken_history.cli import servers as server_choice
from kraken_history.cli.candle_pages import pages, stored_range
from kraken_history.cli.candles import fields_with, texts_of
from kraken_history.cli.commands.export import FileFormat
from kraken_history.cli.gaps_option import Gaps
from kraken_history.cli.whole_file import check_target, whole_file
from kraken_history.errors import HistoryError, UnknownSymbol, UsageError
from kraken_history.intervals import Span, bucket_end, bucket_start, checked_interval, width_of
from kraken_history.provider import HistoricalDataProvider, SyncStatus
from kraken_history.reading.arrow_stream import ARROW, require_packages
from kraken_history.records import MINUTE, floor_minute
from kraken_history.remedies import moment_text
from kraken_history.settings import Settings

CSV_PAGE = 10_000
PARQUET_PAGE = 100_000
"""Buckets read at once; memory use depends on this, not on the range. In Parquet, a page is a row group."""

STANDARD_OUTPUT = Path("-")


class NothingWhole(HistoryError):
    """No candle of a symbol is complete, so that there is no range to export by default."""

    def __init__(self, symbol: str, interval: int, since: datetime) -> None:
        super().__init__(
            f"no candle of {symbol} of {interval} min is complete: the data begin at {moment_text(since)}. Wait for the"
            f" first whole one, fetch older data with `kraken-history backfill {symbol}`, or add --gaps ignore"
        )


class Wanted(Struct, frozen=True):
    """Which candles to export.

    Attributes:
        symbol: Any name of the symbol, until it is looked up in the database.
        gaps: What to do if part of the range is missing.
        ends_with_history: No end was given: a range without gaps ends with the last minute that is whole.
    """

    symbol: str
    interval: int
    start: datetime | None
    end: datetime
    gaps: Gaps = Gaps.RAISE
    ends_with_history: bool = False


def file_format(asked: FileFormat | None, output: Path | None) -> FileFormat:
    """The format to write: ``asked``, otherwise by the ending of the file's name, otherwise CSV.

    Raises:
        UsageError: The two contradict each other, or the ending is unknown and no format is asked for.
    """
    suffix = "" if output is None else output.suffix.lower().removeprefix(".")
    named = FileFormat(suffix) if suffix in list(FileFormat) else None
    if asked and named and asked is not named:
        raise UsageError(f"--format {asked} contradicts {output}: name the file .{asked}, or use --format {named}")
    if suffix and not (asked or named):
        raise UsageError(
            f"expected a file name that ends in .csv or .parquet, got {output}: rename it, or add --format"
        )
    return asked or named or FileFormat.CSV


def run_export(settings: Settings, wanted: Wanted, format_: FileFormat, output: Path | None, *, replaces: bool) -> None:
    """Write the file and say how many candles it has.

    Raises:
        UsageError: The interval, the symbol or the file is not valid. Except for the symbol, raised before any
            server is started.
        CoverageError: With ``Gaps.RAISE``, part of the range is missing.
        NothingWhole: With ``Gaps.RAISE`` and without a range, no candle is complete yet.
    """
    checked_interval(wanted.interval)
    path = check_target_or_output(format_, output, replaces=replaces)
    with server_choice.database(settings) as database_url:
        asyncio.run(_write(database_url, wanted, format_, path, replaces=replaces))


def check_target_or_output(format_: FileFormat, output: Path | None, *, replaces: bool) -> Path | None:
    """Check that this format may be written to this path; return it with symbolic links resolved.

    Raises:
        UsageError: It may not.
        MissingExtra: Parquet is asked for, and its packages are not installed.
    """
    if format_ is FileFormat.PARQUET:
        if output == STANDARD_OUTPUT:
            raise UsageError("Parquet cannot be written to standard output: name a file, or use --format csv")
        asyncio.run(require_packages("arrow", *ARROW))
    return output if output in (None, STANDARD_OUTPUT) else check_target(output, replaces=replaces)


def candles_file(symbol: str, interval: int, format_: FileFormat) -> Path:
    """The name of a file of candles: ``BTC-USDT_60.csv``."""
    return Path(f"{symbol.replace('/', '-')}_{interval}.{format_}")


async def _write(database_url: str, wanted: Wanted, format_: FileFormat, path: Path | None, *, replaces: bool) -> None:
    async with HistoricalDataProvider(database_url, pool_min_size=1, pool_max_size=1) as provider:
        status = await find_status(provider, wanted.symbol)
        wanted = msgspec.structs.replace(wanted, symbol=status.symbol)
        if path is None:
            path = check_target(candles_file(wanted.symbol, wanted.interval, format_), replaces=replaces)
        wanted, (start, end) = await range_to_write(provider, status, wanted)
        write = _write_csv if format_ is FileFormat.CSV else _write_parquet
        with target(path) as file, ExportBar(start, end) as bar:
            rows = await write(provider, wanted, (start, end), file, bar)
    where = "standard output" if path == STANDARD_OUTPUT else path
    sys.stderr.write(f"{rows:,} candle(s) of {wanted.symbol}, {wanted.interval} min, written to {where}\n")


async def range_to_write(provider: HistoricalDataProvider, status: SyncStatus, wanted: Wanted) -> tuple[Wanted, Span]:
    """What is wanted with the bounds that were not given, and the part of it that can hold stored candles.

    Raises:
        CoverageError: With ``Gaps.RAISE``, part of the range is missing.
        NothingWhole: With ``Gaps.RAISE`` and without a range, no candle is complete yet.
    """
    if wanted.gaps is not Gaps.RAISE:
        return wanted, stored_range(status, wanted.interval, wanted.start, wanted.end)
    wanted = await _within_history(provider, status, wanted)
    start, end = stored_range(status, wanted.interval, wanted.start, wanted.end)
    await _require_complete(provider, wanted, start, end)
    return wanted, (start, end)


async def find_status(provider: HistoricalDataProvider, name: str) -> SyncStatus:
    """What is stored of a symbol, by any of its names.

    Raises:
        UsageError: Nothing is stored, or not this symbol.
    """
    status = await provider.get_sync_status(name)
    if status is None:
        known = await provider.get_symbols()
        if not known:
            raise UsageError("nothing is stored yet: start `kraken-history up`")
        raise UnknownSymbol.not_stored(name, known)
    return status


async def _within_history(provider: HistoricalDataProvider, status: SyncStatus, wanted: Wanted) -> Wanted:
    """The wanted range; bounds that were not given are those of the history that is known at the interval.

    Raises:
        NothingWhole: It has no whole candle.
    """
    start, end = wanted.start, wanted.end
    if status.oldest_timestamp is None or status.newest_timestamp is None:
        return wanted
    low = start or floor_minute(status.oldest_timestamp)
    high = min(end, floor_minute(status.newest_timestamp) + MINUTE) if wanted.ends_with_history else end
    if low >= high:
        return wanted
    coverage = await provider.get_coverage(wanted.symbol, low, high, wanted.interval)
    known = [span for span in coverage.spans if span.kind != "missing"]
    if known:
        start = known[0].start if start is None else start
        end = known[-1].end if wanted.ends_with_history else end
    width = width_of(wanted.interval)
    if wanted.start is None and (start is None or bucket_end(start, width) >= bucket_start(end, width)):
        raise NothingWhole(wanted.symbol, wanted.interval, status.oldest_timestamp)
    return msgspec.structs.replace(wanted, start=start, end=end)


async def _require_complete(provider: HistoricalDataProvider, wanted: Wanted, start: datetime, end: datetime) -> None:
    """Look at the whole range before the first candle is written, also at time before and after what is stored."""
    start, end = bucket_end(wanted.start or start, width_of(wanted.interval)), max(end, wanted.end)
    if start < end:
        await provider.require_complete(wanted.symbol, start, end, wanted.interval)


@contextmanager
def target(path: Path) -> Iterator[BinaryIO]:
    """The file to write; it gets its name when it is complete."""
    if path == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        return
    with whole_file(path) as file:
        yield file


class ExportBar:
    """Progress of the export by time, on standard error if that is a terminal."""

    def __init__(self, start: datetime, end: datetime) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._start = start
        self._task = self._progress.add_task("", total=max((end - start).total_seconds(), 1))

    def __enter__(self) -> "ExportBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, moment: datetime) -> None:
        """Show that every candle before this moment is written."""
        done = (moment - self._start).total_seconds()
        self._progress.update(self._task, description=f"{moment:%Y-%m-%d}", completed=done)


async def _pages(wanted: Wanted, span: Span, buckets: int, bar: ExportBar) -> AsyncIterator[Span]:
    for page in pages(*span, width_of(wanted.interval), buckets):
        yield page
        bar.show(page[1])


async def _write_csv(
    provider: HistoricalDataProvider, wanted: Wanted, span: Span, file: BinaryIO, bar: ExportBar
) -> int:
    text = io.TextIOWrapper(file, encoding="ascii", newline="")
    try:
        return await _write_rows(provider, wanted, span, text, bar)
    finally:
        text.detach()  # otherwise the wrapper would close a file that it does not own


async def _write_rows(
    provider: HistoricalDataProvider, wanted: Wanted, span: Span, text: TextIO, bar: ExportBar
) -> int:
    writer = csv.writer(text, lineterminator="\n")
    fields = fields_with(wanted.gaps)
    writer.writerow(fields)
    rows = 0
    async for page in _pages(wanted, span, CSV_PAGE, bar):
        candles = await provider.get_candles(wanted.symbol, wanted.interval, *page, gaps=wanted.gaps.choice)
        writer.writerows(texts_of(candle, fields) for candle in candles)
        rows += len(candles)
    return rows


async def _write_parquet(
    provider: HistoricalDataProvider, wanted: Wanted, span: Span, file: BinaryIO, bar: ExportBar
) -> int:
    from pyarrow.parquet import ParquetWriter

    from kraken_history.reading.columns import candle_schema, padded_schema

    rows = 0
    schema = padded_schema("decimal") if wanted.gaps.pads else candle_schema("decimal")
    with ParquetWriter(file, schema, compression="zstd") as writer:
        async for page in _pages(wanted, span, PARQUET_PAGE, bar):
            table = await provider.get_candles_arrow(wanted.symbol, wanted.interval, *page, gaps=wanted.gaps.choice)
            if table.num_rows:
                writer.write_table(table)
            rows += table.num_rows
    return rows
