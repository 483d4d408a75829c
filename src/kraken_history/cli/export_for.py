"""``export --for``: write candles or trades into the data folder of another program."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from datetime import date
from io import IOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import typer

from kraken_history.adapters import freqtrade, nautilus
from kraken_history.adapters.packages import imported
from kraken_history.cli import servers as server_choice
from kraken_history.cli.candle_pages import pages
from kraken_history.cli.candles import what_is_missing
from kraken_history.cli.commands.export import Program
from kraken_history.cli.export import PARQUET_PAGE, ExportBar, NothingWhole, Wanted, find_status, range_to_write, target
from kraken_history.cli.export_trades import trades_to_write
from kraken_history.cli.failures import complain
from kraken_history.cli.gaps_option import Gaps
from kraken_history.cli.whole_file import check_target
from kraken_history.errors import CoverageError, HistoryError, InvalidChoice, UsageError
from kraken_history.intervals import Span, width_of
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.arrow_stream import ARROW, require_packages
from kraken_history.records import HistoricalCandle, HistoricalTrade
from kraken_history.settings import Settings

NAUTILUS_PAGE = 50_000
"""Maximum number of bars per file of a catalog, and so in memory. A file of trades holds a day."""

_FREQTRADE_ROWS = 50_000  # trades per batch of a Feather file, and so in memory


class Job(msgspec.Struct, frozen=True):
    """One symbol to write.

    Attributes:
        replaces: Whether data that the folder has already may be replaced.
    """

    database_url: str
    wanted: Wanted
    folder: Path
    replaces: bool


def run_export_for(
    settings: Settings,
    program: Program,
    names: Sequence[str],
    wanted: Wanted,
    output: Path | None,
    *,
    trades: bool,
    replaces: bool,
    find_stored: Callable[[str, Sequence[str]], list[str]],
) -> None:
    """Write the files of each symbol. If one is not complete, the others are written, and the exit code is 1.

    Args:
        names: Any names of symbols; empty for all stored ones.
        find_stored: Returns the stored symbols of these names.

    Raises:
        UsageError: An option is not valid, the program's package is needed and not installed, or the folder has data
            of this range.
    """
    if wanted.gaps.pads:  # neither program's files can say that a candle is made up
        raise InvalidChoice("--gaps", wanted.gaps.value, [Gaps.RAISE, Gaps.IGNORE])
    folder = _checked_folder(program, output)
    if program is Program.NAUTILUS:
        imported("nautilus_trader.persistence.catalog")
    else:
        asyncio.run(require_packages("arrow", *ARROW))
    write = _WRITERS[program, trades]
    with server_choice.database(settings) as database_url:
        symbols, code = find_stored(database_url, names), 0
        for symbol in symbols:
            job = Job(database_url, msgspec.structs.replace(wanted, symbol=symbol), folder, replaces)
            try:
                asyncio.run(_run(job, write, what="trade(s)" if trades else "candle(s)"))
            except (CoverageError, NothingWhole) as error:  # the other symbols may be complete
                code = complain(error)
    if code:
        raise typer.Exit(code)


_EXAMPLES = {Program.FREQTRADE: "user_data/data/kraken", Program.NAUTILUS: "catalog"}


def _checked_folder(program: Program, output: Path | None) -> Path:
    if output is None or (output.exists() and not output.is_dir()) or str(output) == "-":
        got = "none" if output is None else output
        raise UsageError(
            f"expected the data folder of {program} with --output, such as {_EXAMPLES[program]}, got {got}"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {output}: {error.strerror}: name another with --output") from error
    return output.resolve()


async def _run(job: Job, write: Callable[..., Any], *, what: str) -> None:
    async with HistoricalDataProvider(job.database_url, pool_min_size=1, pool_max_size=1) as provider:
        rows, span = await write(provider, job)
        of = "" if what == "trade(s)" else f", {job.wanted.interval} min"
        sys.stderr.write(f"{rows:,} {what} of {job.wanted.symbol}{of}, written to {job.folder}\n")
        if job.wanted.gaps is Gaps.IGNORE and span[0] < span[1]:
            sys.stderr.write(await what_is_missing(provider, job.wanted.symbol, job.wanted.interval, *span))


async def _freqtrade_candles(provider: HistoricalDataProvider, job: Job) -> tuple[int, Span]:
    from pyarrow import ipc

    symbol, interval = job.wanted.symbol, job.wanted.interval
    path = check_target(job.folder / freqtrade.candles_name(symbol, interval), replaces=job.replaces)
    wanted, span = await range_to_write(provider, await find_status(provider, symbol), job.wanted)
    rows, options = 0, ipc.IpcWriteOptions(compression="lz4")
    with (
        target(path) as file,
        ExportBar(*span) as bar,
        ipc.new_file(_as_io(file), freqtrade.candles_schema(), options=options) as writer,
    ):
        for page in pages(*span, width_of(interval), PARQUET_PAGE):
            table = await provider.get_candles_arrow(symbol, interval, *page, numbers="float", gaps=wanted.gaps.choice)
            writer.write_table(freqtrade.candles_table(table))
            rows += table.num_rows
            bar.show(page[1])
    return rows, span


async def _freqtrade_trades(provider: HistoricalDataProvider, job: Job) -> tuple[int, Span]:
    from pyarrow import ipc

    path = check_target(job.folder / freqtrade.trades_name(job.wanted.symbol), replaces=job.replaces)
    trades, span = await trades_to_write(provider, job.database_url, job.wanted)
    rows, options = 0, ipc.IpcWriteOptions(compression="lz4")
    batch: list[HistoricalTrade] = []
    async with aclosing(trades):
        with (
            target(path) as file,
            ExportBar(*span) as bar,
            ipc.new_file(_as_io(file), freqtrade.trades_schema(), options=options) as writer,
        ):
            async for trade in trades:
                batch.append(trade)
                if len(batch) == _FREQTRADE_ROWS:
                    writer.write_batch(freqtrade.trades_batch(batch))
                    rows += len(batch)
                    batch.clear()
                    bar.show(trade.timestamp)
            writer.write_batch(freqtrade.trades_batch(batch))
    return rows + len(batch), span


def _as_io(file: BinaryIO) -> IOBase:
    return cast("IOBase", file)  # which a binary file is


async def _nautilus_bars(provider: HistoricalDataProvider, job: Job) -> tuple[int, Span]:
    symbol, interval = job.wanted.symbol, job.wanted.interval
    wanted, span = await range_to_write(provider, await find_status(provider, symbol), job.wanted)

    async def read() -> AsyncIterator[list[HistoricalCandle]]:
        for page in pages(*span, width_of(interval), NAUTILUS_PAGE):
            yield await provider.get_candles(symbol, interval, *page, gaps=wanted.gaps.choice)

    decimals = 0
    async for candles in read():
        prices = (price for each in candles for price in (each.open, each.high, each.low, each.close))
        decimals = max([decimals, *map(nautilus.decimals_of, prices)])
    instrument = nautilus.nautilus_instrument(symbol, decimals)
    rows = 0
    with ExportBar(*span) as bar, _Catalog(job, instrument, "Bar", nautilus.bar_type(instrument, interval)) as catalog:
        async for candles in read():
            catalog.write(nautilus.nautilus_bars(candles, instrument))
            rows += len(candles)
            if candles:
                bar.show(candles[-1].timestamp)
        catalog.finish()
    return rows, span


async def _nautilus_trades(provider: HistoricalDataProvider, job: Job) -> tuple[int, Span]:
    decimals = 0
    trades, span = await trades_to_write(provider, job.database_url, job.wanted)
    async with aclosing(trades):
        async for trade in trades:
            decimals = max(decimals, nautilus.decimals_of(trade.price))
    instrument = nautilus.nautilus_instrument(job.wanted.symbol, decimals)
    rows, day = 0, date.min
    waiting: list[HistoricalTrade] = []
    trades, _ = await trades_to_write(provider, job.database_url, job.wanted)
    async with aclosing(trades):
        with ExportBar(*span) as bar, _Catalog(job, instrument, "TradeTick", str(instrument.id)) as catalog:
            async for trade in trades:
                if trade.timestamp.date() != day:
                    catalog.write(nautilus.nautilus_trades(waiting, instrument))
                    waiting, day = [], trade.timestamp.date()
                    bar.show(trade.timestamp)
                waiting.append(trade)
                rows += 1
            catalog.write(nautilus.nautilus_trades(waiting, instrument))
            catalog.finish()
    return rows, span


class _Catalog:
    """A catalog of nautilus_trader that gets its new files when all of them are complete."""

    def __init__(self, job: Job, instrument: Any, kind: str, identifier: str) -> None:
        self._folder = job.folder
        self._replaces = job.replaces
        self._kind = getattr(imported("nautilus_trader.model.data"), kind)
        self._identifier = identifier
        self._new = imported("nautilus_trader.persistence.catalog").ParquetDataCatalog
        self._part = Path(tempfile.mkdtemp(prefix=".part-", dir=job.folder))
        self._catalog = self._new(str(self._part))
        self._catalog.write_data([instrument])

    def __enter__(self) -> "_Catalog":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._part, ignore_errors=True)

    def write(self, data: Sequence[Any]) -> None:
        """Write a file of these records, which are later than those before; none if there are none."""
        if data:
            self._catalog.write_data(data)

    def finish(self) -> None:
        """Move the files to where they belong.

        Raises:
            UsageError: The catalog has data of this range, and they must not be replaced.
            HistoryError: The files cannot be moved.
        """
        new = self._catalog.get_intervals(self._kind, self._identifier)
        if new:
            self._make_room(new[0][0], new[-1][1])
        try:
            for file in sorted(each for each in self._part.rglob("*") if each.is_file()):
                place = self._folder / file.relative_to(self._part)
                place.parent.mkdir(parents=True, exist_ok=True)
                file.replace(place)
        except OSError as error:
            raise HistoryError(f"cannot write into {self._folder}: {error.strerror or error}") from error

    def _make_room(self, start_ns: int, end_ns: int) -> None:
        there = self._new(str(self._folder))
        if not any(
            low <= end_ns and start_ns <= high for low, high in there.get_intervals(self._kind, self._identifier)
        ):
            return
        if not self._replaces:
            raise UsageError(
                f"the catalog {self._folder} has {self._identifier} of this range already: choose another folder with"
                " --output, or replace the data with --force"
            )
        there.delete_data_range(self._kind, self._identifier, start_ns, end_ns)


_WRITERS: dict[tuple[Program, bool], Callable[..., Any]] = {
    (Program.FREQTRADE, False): _freqtrade_candles,
    (Program.FREQTRADE, True): _freqtrade_trades,
    (Program.NAUTILUS, False): _nautilus_bars,
    (Program.NAUTILUS, True): _nautilus_trades,
}
