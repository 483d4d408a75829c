"""A flat candle, at the last close, in each bucket that has none."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice

from kraken_history.intervals import Span, bucket_start, width_of
from kraken_history.reading.candles import read_latest_of, read_span, require_symbol
from kraken_history.reading.database import Database
from kraken_history.reading.pages import PAGE_ROWS, Pages
from kraken_history.records import HistoricalCandle, MadeUpCandle


async def read_padded(
    database: Database, symbol: str, interval: int, window: Span, limit: int | None = None
) -> list[HistoricalCandle]:
    """A candle for every bucket of ``window`` from the first known close on, at most ``limit``.

    Nothing is made up for a bucket that has not ended by the database's clock.
    """
    width = width_of(interval)
    start, end = window
    known = await read_known(database, symbol, interval, window)
    if known is None:
        return []
    start = max(start, known.timestamp)
    if limit is not None and limit < (end - start) // width:
        end = start + limit * width
    candles = await read_span(database, symbol, interval, (start, end))
    return pad_buckets(known, candles, start, min(end, await read_last_close(database, interval)))


async def read_known(database: Database, symbol: str, interval: int, window: Span) -> HistoricalCandle | None:
    """The last candle before ``window``, or else its first: from it on, every bucket has a known close."""
    found = await read_latest_of(database, symbol, interval, 1, window[0])
    return next(iter(found or await read_span(database, symbol, interval, window, 1)), None)


async def read_last_close(database: Database, interval: int) -> datetime:
    """End of the last closed bucket of this interval, by the database's clock."""
    [row] = await database.fetch("SELECT now() AS now")
    return bucket_start(row["now"], width_of(interval))


def pad_buckets(
    known: HistoricalCandle, candles: Sequence[HistoricalCandle], start: datetime, end: datetime
) -> list[HistoricalCandle]:
    """A candle for every bucket of ``[start, end)``: from ``candles``, or else made up at the close before it.

    Args:
        known: The last candle before ``start``, or the one at ``start``.
        candles: In order. Candles past ``end`` are kept, and buckets between them are padded too.
    """
    padding = Padding(known, start)
    return [*padding.around(candles), *padding.until(end)]


class Padding:
    """Candles in order, with made-up ones between them.

    Args:
        known: The last candle before ``due``, or the one at ``due``.
        due: The first bucket that needs a candle.

    Attributes:
        due: The next bucket that needs a candle.
    """

    def __init__(self, known: HistoricalCandle, due: datetime) -> None:
        self._last = known
        self._width = width_of(known.interval_minutes)
        self.due = due

    def until(self, moment: datetime) -> Iterator[HistoricalCandle]:
        """Made-up candles for the buckets before ``moment`` that have none."""
        while self.due < moment:
            due, self.due = self.due, self.due + self._width
            yield MadeUpCandle.after(self._last, due)

    def around(self, candles: Sequence[HistoricalCandle]) -> Iterator[HistoricalCandle]:
        """These candles, which come next, and made-up ones for the empty buckets before each."""
        for candle in candles:
            yield from self.until(candle.timestamp)
            self._last, self.due = candle, candle.timestamp + self._width
            yield candle


class PaddedPages:
    """The pages of candles of ``window``, padded. However long a stretch without candles is, a page stays a page."""

    def __init__(
        self,
        database: Database,
        symbol: str,
        interval: int,
        window: Span,
        pages: Pages[HistoricalCandle],
        rows: int = PAGE_ROWS,
    ) -> None:
        self._database = database
        self._symbol = symbol
        self._interval = interval
        self._window = window
        self._pages = pages
        self._rows = rows
        self._padding: Padding | None = None
        self._waiting: Iterator[HistoricalCandle] = iter(())
        self._is_at_end = False

    async def read(self) -> list[HistoricalCandle]:
        """The next page; an empty page marks the end. Raises the errors of :meth:`Pages.read`."""
        if self._padding is None and not self._is_at_end:
            await self._begin()
        while not (page := list(islice(self._waiting, self._rows))) and not self._is_at_end:
            self._waiting = await self._read_on()
        return page

    async def _begin(self) -> None:
        start, end = self._window
        known = await read_known(self._database, self._symbol, self._interval, self._window) if start < end else None
        if known is None:
            await require_symbol(self._database, self._symbol)
            self._is_at_end = True
            return
        self._padding = Padding(known, max(start, known.timestamp))

    async def _read_on(self) -> Iterator[HistoricalCandle]:
        assert self._padding is not None
        candles = await self._pages.read()
        if candles:
            return self._padding.around(candles)
        self._is_at_end = True
        return self._padding.until(min(self._window[1], await read_last_close(self._database, self._interval)))
