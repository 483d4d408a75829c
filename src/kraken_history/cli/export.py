"""``export``: write the candles of any range into a file."""

import asyncio
import csv
import io
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TextIO

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kraken_history.cli import servers as server_choice
from kraken_history.cli.candle_pages import pages, stored_range
from kraken_history.cli.candles import FIELDS, check_range, texts_of
from kraken_history.cli.commands.export import FileFormat
from kraken_history.cli.instants import instant, instant_option
from kraken_history.cli.whole_file import check_target, whole_file
from kraken_history.errors import UnknownSymbol, UsageError
from kraken_history.intervals import Span, checked_interval, width_of
from kraken_history.kraken.pairs import checked_name
from kraken_history.provider import HistoricalDataProvider, SyncStatus
from kraken_history.reading.arrow_stream import ARROW, require_packages
from kraken_history.settings import Settings, load_settings

CSV_PAGE = 10_000
PARQUET_PAGE = 100_000
"""Buckets read at once; memory use depends on this, not on the range. In Parquet, a page is a row group."""

STANDARD_OUTPUT = Path("-")


class Wanted(Struct, frozen=True):
    """Which candles to export.

    Attributes:
        symbol: Any name of the symbol, until it is looked up in the database.
    """

    symbol: str
    interval: int
    start: datetime | None
    end: datetime


def run_command(
    symbol: str,
    interval: int,
    from_: str | None,
    to: str | None,
    *,
    format_: FileFormat | None,
    output: Path | None,
    force: bool,
) -> None:
    """Check the options and write the file."""
    start, end, now = instant_option("--from", from_), instant_option("--to", to), datetime.now(UTC)
    check_range(start, end)
    if end is None and start is not None and start >= now:
        raise UsageError(f"the range is reversed or empty: --from {instant(start)} must be before now")
    wanted = Wanted(checked_name(symbol), interval, start, end or now)
    run_export(load_settings(), wanted, file_format(format_, output), output, replaces=force)


def file_format(asked: FileFormat | None, output: Path | None) -> FileFormat:
    """The format to write: ``asked``, otherwise by the ending of the file's name, otherwise CSV.

    Raises:
        UsageError: The two contradict each other.
    """
    suffix = "" if output is None else output.suffix.lower().removeprefix(".")
    named = FileFormat(suffix) if suffix in list(FileFormat) else None
    if asked and named and asked is not named:
        raise UsageError(f"--format {asked} contradicts {output}: name the file .{asked}, or use --format {named}")
    return asked or named or FileFormat.CSV


def run_export(settings: Settings, wanted: Wanted, format_: FileFormat, output: Path | None, *, replaces: bool) -> None:
    """Write the file and say how many candles it has.

    Raises:
        UsageError: The interval, the symbol or the file is not valid. Except for the symbol, raised before any
            server is started.
    """
    checked_interval(wanted.interval)
    if format_ is FileFormat.PARQUET:
        if output == STANDARD_OUTPUT:
            raise UsageError("Parquet cannot be written to standard output: name a file, or use --format csv")
        asyncio.run(require_packages("arrow", *ARROW))
    path = None if output is None else _checked_path(output, replaces=replaces)
    with server_choice.database(settings) as database_url:
        asyncio.run(_write(database_url, wanted, format_, path, replaces=replaces))


def _checked_path(path: Path, *, replaces: bool) -> Path:
    return path if path == STANDARD_OUTPUT else check_target(path, replaces=replaces)


async def _write(database_url: str, wanted: Wanted, format_: FileFormat, path: Path | None, *, replaces: bool) -> None:
    async with HistoricalDataProvider(database_url, pool_min_size=1, pool_max_size=1) as provider:
        status = await _status_of(provider, wanted.symbol)
        wanted = msgspec.structs.replace(wanted, symbol=status.symbol)
        if path is None:
            name = f"{wanted.symbol.replace('/', '-')}_{wanted.interval}.{format_.value}"
            path = _checked_path(Path(name), replaces=replaces)
        start, end = stored_range(status, wanted.interval, wanted.start, wanted.end)
        write = _write_csv if format_ is FileFormat.CSV else _write_parquet
        with _target(path) as file, _Bar(start, end) as bar:
            rows = await write(provider, wanted, (start, end), file, bar)
    where = "standard output" if path == STANDARD_OUTPUT else path
    sys.stderr.write(f"{rows:,} candle(s) of {wanted.symbol}, {wanted.interval} min, written to {where}\n")


async def _status_of(provider: HistoricalDataProvider, name: str) -> SyncStatus:
    status = await provider.get_sync_status(name)
    if status is None:
        known = await provider.get_symbols()
        if not known:
            raise UsageError("nothing is stored yet: start `kraken-history up`")
        raise UnknownSymbol.not_stored(name, known)
    return status


@contextmanager
def _target(path: Path) -> Iterator[BinaryIO]:
    if path == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        return
    with whole_file(path) as file:
        yield file


class _Bar:
    """Progress of the export by time, on standard error if that is a terminal."""

    def __init__(self, start: datetime, end: datetime) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._start = start
        self._task = self._progress.add_task("", total=max((end - start).total_seconds(), 1))

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, moment: datetime) -> None:
        """Show that every candle before this moment is written."""
        done = (moment - self._start).total_seconds()
        self._progress.update(self._task, description=f"{moment:%Y-%m-%d}", completed=done)


async def _pages(wanted: Wanted, span: Span, buckets: int, bar: _Bar) -> AsyncIterator[Span]:
    for page in pages(*span, width_of(wanted.interval), buckets):
        yield page
        bar.show(page[1])


async def _write_csv(provider: HistoricalDataProvider, wanted: Wanted, span: Span, file: BinaryIO, bar: _Bar) -> int:
    text = io.TextIOWrapper(file, encoding="ascii", newline="")
    try:
        return await _write_rows(provider, wanted, span, text, bar)
    finally:
        text.detach()  # otherwise the wrapper would close a file that it does not own


async def _write_rows(provider: HistoricalDataProvider, wanted: Wanted, span: Span, text: TextIO, bar: _Bar) -> int:
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    rows = 0
    async for page in _pages(wanted, span, CSV_PAGE, bar):
        candles = await provider.get_candles(wanted.symbol, wanted.interval, *page)
        writer.writerows(map(texts_of, candles))
        rows += len(candles)
    return rows


async def _write_parquet(
    provider: HistoricalDataProvider, wanted: Wanted, span: Span, file: BinaryIO, bar: _Bar
) -> int:
    from pyarrow.parquet import ParquetWriter

    from kraken_history.reading.columns import candle_schema

    rows = 0
    with ParquetWriter(file, candle_schema("decimal"), compression="zstd") as writer:
        async for page in _pages(wanted, span, PARQUET_PAGE, bar):
            table = await provider.get_candles_arrow(wanted.symbol, wanted.interval, *page)
            if table.num_rows:
                writer.write_table(table)
            rows += table.num_rows
    return rows
