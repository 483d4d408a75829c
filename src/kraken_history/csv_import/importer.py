"""Files in, what became of each out."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime

import asyncpg
from msgspec import Struct

from kraken_history.csv_import.extent import Extent, find_extent
from kraken_history.csv_import.names import Content, content_of
from kraken_history.csv_import.offline_names import symbol_from_name
from kraken_history.csv_import.refusal import CsvError
from kraken_history.csv_import.sources import CsvFile
from kraken_history.csv_import.writing import FileWriter, OnProgress
from kraken_history.database.connections import is_transient
from kraken_history.errors import HistoryError, UsageError
from kraken_history.symbols import DEFAULT_PAIRS, Pair

FetchPairs = Callable[[], Awaitable[Iterable[Pair]]]
"""Fetches all pairs, as :meth:`kraken_history.kraken.client.KrakenRest.fetch_asset_pairs` does."""


class Imported(Struct, frozen=True):
    """A file that is in the database.

    Attributes:
        rows: Lines of the file, without a header.
        candles: The one-minute candles that they are or make.
        new_candles: Minutes that had no candle before.
        replaced_candles: Minutes whose candle was less full.
        start: Its first minute.
        end: After its last minute.
        is_name_cut: Whether the symbol is what its name was cut into, because Kraken could not be asked.
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
    """A file that nothing is stored of, and need not be."""

    file: str
    interval_minutes: int

    @property
    def reason(self) -> str:
        """Why it need not be."""
        return f"candles of {self.interval_minutes} minutes are computed from those of one minute"


class CsvImporter:
    """Imports files into one database; may run beside the live feed, and beside other importers.

    Args:
        fetch_pairs: Asked at most once, when a file is of none of the default pairs. Where Kraken cannot be asked,
            names count that can be read in one way only.
        symbol: What the files are of, whatever their names say; by default their names count.
    """

    def __init__(self, pool: asyncpg.Pool, fetch_pairs: FetchPairs, *, symbol: str | None = None) -> None:
        self._pool = pool
        self._fetch_pairs = fetch_pairs
        self._symbol = symbol
        self._learn(())
        self._asked: HistoryError | bool = False

    async def import_files(
        self, files: Iterable[CsvFile], told: Callable[[CsvFile, int], object] = lambda *_: None
    ) -> AsyncIterator[Imported | Skipped | CsvError]:
        """Import one file after the other; a file that is refused does not keep back the others.

        Args:
            told: How many bytes of which file have been read.

        Raises:
            UsageError: One symbol is given for the files of several pairs; nothing was done.
        """
        files = list(files)
        if self._symbol is not None:
            check_one_pair(files, self._symbol)
        for file in files:
            try:
                yield await self.import_file(file, lambda done, file=file: told(file, done))  # type: ignore[misc]
            except CsvError as error:
                yield error
            except asyncpg.PostgresError as error:
                if is_transient(error):
                    raise
                yield CsvError(file.name, None, f"the database refuses it: {error}")

    async def import_file(self, file: CsvFile, told: OnProgress = lambda _: None) -> Imported | Skipped:
        """Store the candles of a file, or those built from its trades, in one transaction.

        Of two candles of a minute the fuller one stays, as everywhere; so doing it again changes nothing.

        Raises:
            CsvError: The file is refused; nothing of it is stored.
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver says.
        """
        content = content_of(file.name, any_pair=self._symbol is not None)
        if content.is_derived:
            return Skipped(file.name, content.interval_minutes or 0)
        extent = await _extent_of(file, content)  # first: of what is no download, no pair is asked
        symbol = self._symbol or await self._symbol_of(file.name, content.pair)
        async with self._pool.acquire() as connection:
            written = await FileWriter(connection, file, content, symbol, extent, told).write()
        return Imported(
            file.name, symbol, written.rows, written.candles, written.new, written.replaced, extent.first, extent.end,
            is_name_cut=self._symbol is None and content.pair.upper() not in self._symbols,
        )  # fmt: skip

    async def _symbol_of(self, file: str, name: str) -> str:
        if name.upper() not in self._symbols and not self._asked:
            await self._ask_kraken()
        if name.upper() in self._symbols:
            return self._symbols[name.upper()]
        hint = "say what it is, with --symbol BASE/QUOTE"
        if not isinstance(self._asked, HistoryError):
            raise CsvError(file, None, f"Kraken lists no pair {name}: {hint}")
        symbol = symbol_from_name(name)
        if symbol is None:
            reason = f"what pair {name} is cannot be looked up ({self._asked}), and its name leaves a doubt"
            raise CsvError(file, None, f"{reason}: {hint}, or try again later")
        return symbol

    async def _ask_kraken(self) -> None:
        try:
            self._learn(await self._fetch_pairs())
            self._asked = True
        except HistoryError as error:
            self._asked = error

    def _learn(self, pairs: Iterable[Pair]) -> None:
        """What files may be named after: the altname, or what people make of our own symbol, BTCUSDT."""
        known = [*DEFAULT_PAIRS, *pairs]
        self._symbols = {pair.symbol.replace("/", "").upper(): pair.symbol for pair in known}
        self._symbols |= {pair.altname.upper(): pair.symbol for pair in known}


async def _extent_of(file: CsvFile, content: Content) -> Extent:
    """:func:`find_extent` in a thread. No process ends before its threads, so a cancelled one is told to stop."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(find_extent, file, content, stop.is_set)
    finally:
        stop.set()


def check_one_pair(files: Iterable[CsvFile], symbol: str) -> None:
    """Raise UsageError if these files are of several pairs, which cannot all be ``symbol``."""
    pairs: dict[str, None] = {}
    for file in files:
        try:
            pairs[content_of(file.name, any_pair=True).pair.upper()] = None
        except CsvError:
            continue  # it will be refused when its turn comes
    if len(pairs) > 1:
        names = ", ".join(list(pairs)[:5])
        raise UsageError(f"--symbol {symbol} is for the files of one pair, and these are of {len(pairs)}: {names}")
