"""One file → rows, in one transaction."""

import asyncio
from collections.abc import AsyncIterator, Callable

from msgspec import Struct

from kraken_history.csv_import.cryptodatadownload import TurnedFile
from kraken_history.csv_import.extent import Extent, Phase, instant, reader_of
from kraken_history.csv_import.names import Content
from kraken_history.csv_import.refusal import CsvError
from kraken_history.csv_import.sources import CsvFile
from kraken_history.database.connections import Connection
from kraken_history.storing.candle_series import CandleSeries, write_series
from kraken_history.storing.candle_text import Candles

OnProgress = Callable[[Phase, int], object]
"""Called with the number of bytes of the file that a phase has passed; a phase restarts if it must be repeated."""


class Written(Struct, frozen=True):
    """The outcome of the transaction.

    Attributes:
        rows: Lines of the file, without a header.
        candles: Number of one-minute candles in the file, or built from its trades.
        new: Minutes that had no candle before.
        replaced: Minutes whose stored candle was less full.
    """

    rows: int
    candles: int
    new: int
    replaced: int


class FileReading:
    """One pass over a file.

    Attributes:
        rows: Lines of the file, without a header, once all blocks are read.
    """

    def __init__(self, file: CsvFile | TurnedFile, content: Content, extent: Extent, told: OnProgress) -> None:
        self.rows = 0
        self._file = file
        self._content = content
        self._extent = extent
        self._told = told

    async def blocks(self) -> AsyncIterator[Candles]:
        """The file's candles, in order, in blocks that are not empty.

        Raises:
            CsvError: A line is not valid, or the file changed since its extent was found.
        """
        reader = reader_of(self._file, self._content)
        done = 0
        for block in self._file.blocks():
            candles = reader.read(block)
            if self._is_within(candles):
                yield candles
            done += len(block)
            self._told("reading", done)
            await asyncio.sleep(0)  # let other tasks run
        rest = reader.finish()
        if rest is not None and self._is_within(rest):
            yield rest
        self.rows = reader.rows
        if (instant(reader.first or 0), instant(reader.last or 0)) != (self._extent.first, self._extent.last):
            raise CsvError(self._file.name, None, "the file changed while it was read: import it again")

    def _is_within(self, candles: Candles) -> bool:
        """True if the candles must be written.

        If a candle is later than the last line of the file, a line further on goes back in time. The candle may have
        no partition, so it is not written: the reader then reports the error, with the number of that line.
        """
        return bool(candles.times) and instant(candles.times[-1]) <= self._extent.last


class FileWriter:
    """Writes one file over one connection that is not in a transaction."""

    def __init__(
        self,
        connection: Connection,
        file: CsvFile | TurnedFile,
        content: Content,
        symbol: str,
        extent: Extent,
        told: OnProgress,
    ) -> None:
        self._connection = connection
        self._file = file
        self._content = content
        self._symbol = symbol
        self._extent = extent
        self._told = told
        self._reading = FileReading(file, content, extent, told)

    async def write(self) -> Written:
        """Store the file's candles; if a minute already has one, the fuller one is kept.

        Raises:
            CsvError: A line is not valid; nothing is stored.
        """
        stored = await write_series(self._connection, self._series())
        return Written(self._reading.rows, stored.candles, stored.new, stored.replaced)

    def _series(self) -> CandleSeries:
        """The file as a series, which proves its time from its first minute to its last.

        A file of trades may end within its last minute, so this minute is not proven.
        """
        first, last, end = self._extent.first, self._extent.last, self._extent.end
        proven_until = last if self._content.interval_minutes is None else end
        return CandleSeries(self._symbol, "csv", first, last, proven_until, self._reading.blocks, self._merged)

    def _merged(self, part: float) -> None:
        self._told("merging", int(part * self._file.size))
