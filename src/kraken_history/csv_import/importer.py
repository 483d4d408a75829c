"""Imports files, and returns the outcome of each."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from datetime import datetime
from functools import partial

import asyncpg
from msgspec import Struct

from kraken_history.csv_import.cryptodatadownload import TurnedFile, is_of_the_site, pair_of, turned
from kraken_history.csv_import.extent import Extent, Phase, find_extent
from kraken_history.csv_import.longer_files import is_longer, pairs_with_minutes, write_longer
from kraken_history.csv_import.names import Content, content_of
from kraken_history.csv_import.offline_names import symbol_from_name
from kraken_history.csv_import.refusal import CsvError
from kraken_history.csv_import.sources import CsvFile
from kraken_history.csv_import.symbol_names import SymbolNames
from kraken_history.csv_import.writing import FileWriter, OnProgress
from kraken_history.database.failures import is_transient
from kraken_history.errors import UsageError
from kraken_history.kraken.resolver import FetchPairs
from kraken_history.records import MINUTE


class Imported(Struct, frozen=True):
    """A file that was imported.

    Attributes:
        rows: Lines of the file, without a header.
        candles: Number of candles in the file, or of one-minute candles built from its trades.
        new_candles: Times that had no candle before.
        replaced_candles: Times whose stored candle was less full.
        start: The start of its first candle.
        end: The end of its last candle.
        interval_minutes: Length of the candles. Those of more than a minute have no minutes below them.
        is_name_cut: True if the symbol was derived from the name alone, because Kraken could not be asked.
    """

    file: str
    symbol: str
    rows: int
    candles: int
    new_candles: int
    replaced_candles: int
    start: datetime
    end: datetime
    is_name_cut: bool = False
    interval_minutes: int = 1


class Skipped(Struct, frozen=True):
    """A file that was not stored, because its candles are computed from others that are imported with it."""

    file: str
    interval_minutes: int

    @property
    def reason(self) -> str:
        """Why the file was not stored."""
        return f"candles of {self.interval_minutes} minutes are computed from those of one minute"


class CsvImporter:
    """Imports files into one database; may run beside the live feed, and beside other importers.

    Args:
        fetch_pairs: Called at most once, when a file belongs to none of the default pairs. If Kraken cannot be asked,
            only names with a single possible reading are accepted.
        symbol: Any name of the pair of all files, regardless of their own names. By default, their own names count.
    """

    def __init__(self, pool: asyncpg.Pool, fetch_pairs: FetchPairs, *, symbol: str | None = None) -> None:
        self._pool = pool
        self._given = symbol
        self._symbol: str | None = None
        self._names = SymbolNames(pool, fetch_pairs)
        self._with_minutes: frozenset[str] = frozenset()

    @property
    def note(self) -> str:
        """A notice about the symbol that was given; empty if there is none."""
        return self._names.note

    async def import_files(
        self, files: Iterable[CsvFile], told: Callable[[CsvFile, Phase, int], object] = lambda *_: None
    ) -> AsyncIterator[Imported | Skipped | CsvError]:
        """Import one file after the other. If a file is refused, the others are still imported.

        Args:
            told: Called with a file, what is done with it, and the number of its bytes for which that is done.

        Raises:
            UsageError: One symbol is given for files of several pairs, or the symbol cannot be found. Nothing was
                imported.
        """
        files = list(files)
        self._with_minutes = pairs_with_minutes(files)
        if self._given is not None:
            check_one_pair(files, self._given)
            await self._given_symbol(self._given)
        for file in files:
            try:
                yield await self.import_file(file, partial(told, file))
            except CsvError as error:
                yield error
            except asyncpg.PostgresError as error:
                if is_transient(error):
                    raise
                yield CsvError(file.name, None, f"the database refused the file: {error}")

    async def import_file(self, file: CsvFile, told: OnProgress = lambda *_: None) -> Imported | Skipped:
        """Store the candles of a file, or those built from its trades; one-minute candles in one transaction.

        Of two candles of a minute the fuller one is kept, as everywhere, so a second import changes nothing.

        Raises:
            CsvError: The file is refused; nothing of it is stored.
            UnknownSymbol: The given symbol cannot be found.
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver says.
        """
        if await _is_foreign(file):
            return await self._import_turned(file, told)
        content = content_of(file.name, any_pair=self._given is not None)
        if content.is_derived and (not is_longer(content) or content.pair.upper() in self._with_minutes):
            return Skipped(file.name, content.interval_minutes or 0)
        return await self._import_series(file, content, told)

    async def _import_turned(self, file: CsvFile, told: OnProgress) -> Imported:
        """Import a file of CryptoDataDownload, whose lines are turned around."""
        series = await asyncio.to_thread(turned, file, any_pair=self._given is not None)
        try:
            return await self._import_series(series, series.content, told)
        except CsvError as error:
            if error.line is None:
                raise
            raise CsvError(file.name, series.own_line(error.line), error.reason) from None

    async def _import_series(self, file: CsvFile | TurnedFile, content: Content, told: OnProgress) -> Imported:
        extent = await _extent_of(file, content, told)  # first: Kraken is not asked about other files
        if self._given is None:
            symbol, is_name_cut = await self._names.of_file(file.name, content.pair)
        else:
            symbol, is_name_cut = await self._given_symbol(self._given), False
        interval = content.interval_minutes or 1
        if is_longer(content):
            written = await write_longer(self._pool, file, content, symbol, extent, told)
        else:
            async with self._pool.acquire() as connection:
                written = await FileWriter(connection, file, content, symbol, extent, told).write()
        return Imported(
            file.name, symbol, written.rows, written.candles, written.new, written.replaced, extent.first,
            extent.last + interval * MINUTE, is_name_cut, interval,
        )  # fmt: skip

    async def _given_symbol(self, name: str) -> str:
        if self._symbol is None:
            self._symbol = await self._names.of_given(name)
        return self._symbol


async def _is_foreign(file: CsvFile) -> bool:
    """True for a file of CryptoDataDownload. Files with the names of Kraken's candles are not opened."""
    with suppress(CsvError):
        if content_of(file.name).interval_minutes is not None:
            return False
    return await asyncio.to_thread(is_of_the_site, file)


async def _extent_of(file: CsvFile | TurnedFile, content: Content, told: OnProgress) -> Extent:
    """Run :func:`find_extent` in a thread. A process cannot exit before its threads, so a cancelled one is stopped."""
    stop = threading.Event()
    loop = asyncio.get_running_loop()

    def checked(done: int) -> None:
        if not stop.is_set():
            loop.call_soon_threadsafe(told, "checking", done)

    try:
        return await asyncio.to_thread(find_extent, file, content, stop.is_set, checked)
    finally:
        stop.set()


def check_one_pair(files: Iterable[CsvFile], symbol: str) -> None:
    """Raise UsageError if these files belong to several pairs, which cannot all be ``symbol``."""
    pairs: dict[str, str] = {}
    for file in files:
        try:
            pair = (pair_of(file.name) or content_of(file.name, any_pair=True).pair).upper()
            pairs.setdefault(symbol_from_name(pair) or pair, pair)
        except CsvError:
            continue  # it will be refused when its turn comes
    if len(pairs) > 1:
        names = ", ".join(list(pairs.values())[:5])
        raise UsageError(f"expected files of one pair with --symbol {symbol}, got {len(pairs)} pairs: {names}")
