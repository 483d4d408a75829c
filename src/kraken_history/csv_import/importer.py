"""Imports files, and returns the outcome of each."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime

import asyncpg
from msgspec import Struct

from kraken_history.csv_import.extent import Extent, find_extent
from kraken_history.csv_import.names import Content, content_of
from kraken_history.csv_import.refusal import CsvError
from kraken_history.csv_import.sources import CsvFile
from kraken_history.csv_import.symbol_names import SymbolNames
from kraken_history.csv_import.writing import FileWriter, OnProgress
from kraken_history.database.connections import is_transient
from kraken_history.errors import UsageError
from kraken_history.kraken.resolver import FetchPairs


class Imported(Struct, frozen=True):
    """A file that was imported.

    Attributes:
        rows: Lines of the file, without a header.
        candles: Number of one-minute candles in the file, or built from its trades.
        new_candles: Minutes that had no candle before.
        replaced_candles: Minutes whose stored candle was less full.
        start: Its first minute.
        end: End of its last minute.
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


class Skipped(Struct, frozen=True):
    """A file that was not stored, because its candles are computed from others."""

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

    @property
    def note(self) -> str:
        """A notice about the symbol that was given; empty if there is none."""
        return self._names.note

    async def import_files(
        self, files: Iterable[CsvFile], told: Callable[[CsvFile, int], object] = lambda *_: None
    ) -> AsyncIterator[Imported | Skipped | CsvError]:
        """Import one file after the other. If a file is refused, the others are still imported.

        Args:
            told: Called with a file and the number of its bytes read so far.

        Raises:
            UsageError: One symbol is given for files of several pairs, or the symbol cannot be found. Nothing was
                imported.
        """
        files = list(files)
        if self._given is not None:
            check_one_pair(files, self._given)
            await self._given_symbol(self._given)
        for file in files:
            try:
                yield await self.import_file(file, lambda done, file=file: told(file, done))  # type: ignore[misc]
            except CsvError as error:
                yield error
            except asyncpg.PostgresError as error:
                if is_transient(error):
                    raise
                yield CsvError(file.name, None, f"the database refused the file: {error}")

    async def import_file(self, file: CsvFile, told: OnProgress = lambda _: None) -> Imported | Skipped:
        """Store the candles of a file, or those built from its trades, in one transaction.

        Of two candles of a minute the fuller one is kept, as everywhere, so a second import changes nothing.

        Raises:
            CsvError: The file is refused; nothing of it is stored.
            UnknownSymbol: The given symbol cannot be found.
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver says.
        """
        content = content_of(file.name, any_pair=self._given is not None)
        if content.is_derived:
            return Skipped(file.name, content.interval_minutes or 0)
        extent = await _extent_of(file, content)  # first: Kraken is not asked about other files
        if self._given is None:
            symbol, is_name_cut = await self._names.of_file(file.name, content.pair)
        else:
            symbol, is_name_cut = await self._given_symbol(self._given), False
        async with self._pool.acquire() as connection:
            written = await FileWriter(connection, file, content, symbol, extent, told).write()
        return Imported(
            file.name, symbol, written.rows, written.candles, written.new, written.replaced, extent.first, extent.end,
            is_name_cut,
        )  # fmt: skip

    async def _given_symbol(self, name: str) -> str:
        if self._symbol is None:
            self._symbol = await self._names.of_given(name)
        return self._symbol


async def _extent_of(file: CsvFile, content: Content) -> Extent:
    """Run :func:`find_extent` in a thread. A process cannot exit before its threads, so a cancelled one is stopped."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(find_extent, file, content, stop.is_set)
    finally:
        stop.set()


def check_one_pair(files: Iterable[CsvFile], symbol: str) -> None:
    """Raise UsageError if these files belong to several pairs, which cannot all be ``symbol``."""
    pairs: dict[str, None] = {}
    for file in files:
        try:
            pairs[content_of(file.name, any_pair=True).pair.upper()] = None
        except CsvError:
            continue  # it will be refused when its turn comes
    if len(pairs) > 1:
        names = ", ".join(list(pairs)[:5])
        raise UsageError(f"expected files of one pair with --symbol {symbol}, got {len(pairs)} pairs: {names}")
