"""Replay of stored history, in order."""

import asyncio
import heapq
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from math import gcd
from typing import Generic, Protocol

from msgspec import Struct

from kraken_history.arguments import checked_list
from kraken_history.errors import InvalidNumber
from kraken_history.intervals import (
    Span,
    bucket_start,
    checked_interval,
    checked_range,
    closed_window,
    width_of,
)
from kraken_history.kraken.pairs import checked_name, find_stored
from kraken_history.reading.candles import Extent, read_extent, read_span
from kraken_history.reading.database import Database
from kraken_history.reading.gaps import GapsChoice, TradeGapsChoice, checked_gaps, checked_trade_gaps
from kraken_history.reading.missing import Content, require_all_complete, require_complete
from kraken_history.reading.names import by_any_name, read_symbols
from kraken_history.reading.padding import PaddedPages
from kraken_history.reading.pages import PAGE_ROWS, KeptPages, Pages
from kraken_history.reading.trades import TradePages
from kraken_history.records import HistoricalCandle, HistoricalTrade, Record

_FIRST_REACH = timedelta(days=31)
"""Maximum length of a replay's first window: so the first long candles arrive soon, even if all are aggregated."""

_LONGEST_REACH = timedelta(days=4 * 365)
"""Maximum length of a window of candles: four years, two hundred partitions."""

_MERGED_ROWS = 8 * PAGE_ROWS
"""Maximum number of records that a merged replay buffers, unless a stream would get less than ``_FEWEST_ROWS``."""

_FEWEST_ROWS = 256  # minimum number of records per page and stream of a merged replay


class Clock:
    """A monotonic clock that can sleep; tests provide their own."""

    def seconds(self) -> float:
        """Seconds since an arbitrary moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after this time, or later."""
        await asyncio.sleep(seconds)


class Pacer:
    """Delays records that would be emitted too early, relative to the first record.

    Each pause is computed from the total time that has passed. If a consumer is slow, or a pause was too long, the next
    pauses are shorter, so delays never add up.

    Args:
        speed: Seconds of history per second; 0 delays nothing.

    Raises:
        InvalidNumber: The speed is negative, or not a number.
    """

    def __init__(self, speed: float, clock: Clock) -> None:
        check_speed(speed)
        self._speed = speed
        self._clock = clock
        self._first: tuple[datetime, float] | None = None

    async def wait_for(self, moment: datetime) -> None:
        """Return when the records of this moment are due."""
        if not self._speed:
            return
        now = self._clock.seconds()
        if self._first is None:
            self._first = moment, now
        began_at, began = self._first
        pause = (moment - began_at).total_seconds() / self._speed - (now - began)
        if pause > 0:
            await self._clock.sleep(pause)


def check_speed(speed: float) -> None:
    """Check a replay speed.

    Raises:
        InvalidNumber: The speed is negative, infinite, or not a number.
    """
    if isinstance(speed, bool) or not isinstance(speed, (int, float)) or not 0 <= speed <= sys.float_info.max:
        raise InvalidNumber("speed", speed, "0 or a positive number")


class CandlePages(Pages[HistoricalCandle]):
    """The candles of a symbol and interval."""

    def __init__(self, database: Database, symbol: str, interval: int, span: Span, rows: int = PAGE_ROWS) -> None:
        self._width = width_of(interval)
        super().__init__(
            *span,
            rows,
            unit=self._width,
            reach=max(1, min(rows, _FIRST_REACH // self._width)),
            longest_reach=_LONGEST_REACH // self._width,
        )
        self._database = database
        self._symbol = symbol
        self._interval = interval

    async def _fetch(self, start: datetime, first_id: int, stop: datetime, rows: int) -> list[HistoricalCandle]:
        return await read_span(self._database, self._symbol, self._interval, (start, stop), rows)

    async def _extent(self) -> Extent:
        return await read_extent(self._database, self._symbol, self._interval)

    def _key_after(self, record: HistoricalCandle) -> tuple[datetime, int]:
        return record.timestamp + self._width, 0

    def _start_of(self, oldest: datetime) -> datetime:
        return bucket_start(oldest, self._width)


def replay_candles(
    database: Database,
    symbol: str,
    interval: int,
    start: datetime,
    end: datetime,
    speed: float,
    gaps: GapsChoice = "ignore",
    clock: Clock | None = None,
) -> AsyncGenerator[HistoricalCandle, None]:
    """The candles that open at or after ``start`` and are closed at ``end``, one by one.

    Arguments are checked at once; the symbol is looked up at the first step. If the caller stops early, nothing stays
    open: between two pages the replay holds no connection.

    Args:
        gaps: With ``raise``, the whole range is checked before the first candle.
    """
    span, minutes, gaps = closed_window(start, end, interval), checked_interval(interval), checked_gaps(gaps)

    async def pages_of(name: str) -> AnyPages[HistoricalCandle]:
        complete = await _complete_part(database, name, span, "candles", minutes) if gaps == "raise" else span
        return _candle_pages(database, name, minutes, complete, gaps)

    return _replay(database, checked_name(symbol), pages_of, Pacer(speed, clock or Clock()))


def replay_trades(
    database: Database,
    symbol: str,
    start: datetime,
    end: datetime,
    speed: float,
    gaps: TradeGapsChoice = "ignore",
    clock: Clock | None = None,
) -> AsyncGenerator[HistoricalTrade, None]:
    """The trades of ``[start, end)``, one by one; otherwise as :func:`replay_candles`."""
    span, gaps = checked_range(start, end), checked_trade_gaps(gaps)

    async def pages_of(name: str) -> AnyPages[HistoricalTrade]:
        complete = await _complete_part(database, name, span, "trades") if gaps == "raise" else span
        return _trade_pages(database, name, complete, gaps)

    return _replay(database, checked_name(symbol), pages_of, Pacer(speed, clock or Clock()))


class AnyPages(Protocol[Record]):
    """Pages of records, however they are checked or padded."""

    async def read(self) -> list[Record]:
        """The next page; an empty page marks the end."""
        ...


async def _complete_part(database: Database, symbol: str, span: Span, content: Content, interval: int = 1) -> Span:
    if span[0] >= span[1]:
        return span
    return span[0], await require_complete(database, symbol, span, content, interval=interval)


def _candle_pages(
    database: Database, symbol: str, interval: int, span: Span, gaps: GapsChoice, rows: int = PAGE_ROWS
) -> AnyPages[HistoricalCandle]:
    """The pages of whole buckets within ``span``."""
    start, end = span
    window = start, max(start, bucket_start(end, width_of(interval)))
    pages = CandlePages(database, symbol, interval, window, rows)
    match gaps:
        case "raise":
            return KeptPages(database, symbol, "candles", pages, interval)
        case "pad":
            return PaddedPages(database, symbol, interval, window, pages, rows)
        case _:
            return pages


def _trade_pages(
    database: Database, symbol: str, span: Span, gaps: GapsChoice, rows: int = PAGE_ROWS
) -> AnyPages[HistoricalTrade]:
    pages = TradePages(database, symbol, (span[0], max(span)), rows)
    return KeptPages(database, symbol, "trades", pages) if gaps == "raise" else pages


async def _replay(
    database: Database, name: str, pages_of: Callable[[str], Awaitable[AnyPages[Record]]], pacer: Pacer
) -> AsyncGenerator[Record, None]:
    pages, page = await _begin(database, name, pages_of)
    while page:
        for record in page:
            await pacer.wait_for(record.timestamp)
            yield record
        page = await pages.read()


@by_any_name
async def _begin(
    database: Database, symbol: str, pages_of: Callable[[str], Awaitable[AnyPages[Record]]]
) -> tuple[AnyPages[Record], list[Record]]:
    """The pages of a symbol, and the records of the first one."""
    pages = await pages_of(symbol)
    return pages, await pages.read()


def replay_merged(
    database: Database,
    symbols: Sequence[str],
    intervals: Sequence[int],
    start: datetime,
    end: datetime,
    speed: float,
    *,
    with_trades: bool,
    gaps: GapsChoice = "ignore",
    clock: Clock | None = None,
) -> AsyncGenerator[HistoricalCandle | HistoricalTrade, None]:
    """Candles of all symbols and intervals, and trades, in the order in which they become known.

    A candle is known when it closes. At the same instant candles come before trades, shorter candles before longer
    ones, otherwise in the order of ``symbols``; trades of a symbol by id. Duplicate symbols and intervals count once.

    Args:
        gaps: With ``raise``, all symbols are checked before the first record, and all end where the first of them is
            not settled. With ``pad``, candles are padded, and trades are read as they are stored.

    Raises:
        UsageError: An argument is not valid; raised at once.
    """
    pacer, gaps = Pacer(speed, clock or Clock()), checked_gaps(gaps)
    trades_span = checked_range(start, end)
    names = checked_list("symbols", symbols, checked_name)
    lengths = checked_list("intervals", intervals, checked_interval, may_be_empty=with_trades)
    spans = {length: closed_window(start, end, length) for length in lengths}
    return _replay_merged(database, names, _Wanted(spans, trades_span if with_trades else None, gaps), pacer)


class _Wanted(Struct, frozen=True):
    """What a merged replay gives of each symbol: the candles of these spans, by interval, and the trades of one."""

    spans: Mapping[int, Span]
    trades_span: Span | None
    gaps: GapsChoice

    def whole(self) -> dict[Content, Span]:
        """The time that must be complete."""
        windows = [span for span in self.spans.values() if span[0] < span[1]]
        whole: dict[Content, Span] = {}
        if windows:
            whole["candles"] = min(start for start, _ in windows), max(end for _, end in windows)
        if self.trades_span is not None:
            whole["trades"] = self.trades_span
        return whole

    def until(self, moment: datetime) -> "_Wanted":
        """The same up to this moment."""
        spans = {length: (start, min(end, moment)) for length, (start, end) in self.spans.items()}
        trades = None if self.trades_span is None else (self.trades_span[0], min(self.trades_span[1], moment))
        return _Wanted(spans, trades, self.gaps)


async def _replay_merged(
    database: Database, names: Sequence[str], wanted: _Wanted, pacer: Pacer
) -> AsyncGenerator[HistoricalCandle | HistoricalTrade, None]:
    stored = await read_symbols(database)
    symbols = list(dict.fromkeys(find_stored(name, stored) for name in names))
    if wanted.gaps == "raise":
        settled_until = await require_all_complete(database, symbols, wanted.whole(), gcd(*wanted.spans))
        wanted = wanted if settled_until is None else wanted.until(settled_until)
    count = len(symbols) * (len(wanted.spans) + (wanted.trades_span is not None))
    rows = max(_FEWEST_ROWS, min(PAGE_ROWS, _MERGED_ROWS // count))
    streams: list[AnyStream] = []
    for place, symbol in enumerate(symbols):
        for length, span in wanted.spans.items():
            candles = _candle_pages(database, symbol, length, span, wanted.gaps, rows)
            streams.append(Stream(candles.read, candle_moment(length, place)))
        if wanted.trades_span is not None:
            trades = _trade_pages(database, symbol, wanted.trades_span, wanted.gaps, rows)
            streams.append(Stream(trades.read, trade_moment(place)))
    async for record in replay_streams(streams, pacer):
        yield record


Moment = tuple[datetime, bool, int, int, int]
"""When a record becomes known, and its order within that instant: whether it is a trade, interval, symbol, id."""


def candle_moment(interval: int, place: int) -> Callable[[HistoricalCandle], Moment]:
    """A function from candles of this interval, of the symbol at this place, to their moments."""
    width = width_of(interval)
    return lambda candle: (candle.timestamp + width, False, interval, place, 0)


def trade_moment(place: int) -> Callable[[HistoricalTrade], Moment]:
    """A function from trades of the symbol at this place to their moments."""
    return lambda trade: (trade.timestamp, True, 0, place, trade.id)


class Stream(Generic[Record]):
    """The single records of pages, with their moments, which must increase.

    Args:
        read: Returns the next page; an empty page marks the end.
    """

    def __init__(self, read: Callable[[], Awaitable[list[Record]]], moment_of: Callable[[Record], Moment]) -> None:
        self._read: Callable[[], Awaitable[list[Record]]] = read
        self._moment_of: Callable[[Record], Moment] = moment_of
        self._page: Iterable[Record] = iter(())

    async def next(self) -> tuple[Moment, Record] | None:
        """The next record; None at the end."""
        for record in self._page:
            return self._moment_of(record), record
        self._page = iter(await self._read())
        for record in self._page:
            return self._moment_of(record), record
        return None


AnyStream = Stream[HistoricalCandle] | Stream[HistoricalTrade]


async def replay_streams(
    streams: Iterable[AnyStream], pacer: Pacer
) -> AsyncGenerator[HistoricalCandle | HistoricalTrade, None]:
    """The records of all streams, in the order of their moments. No two moments may be equal."""
    heap = [(*head, stream) for stream in streams if (head := await stream.next()) is not None]
    heapq.heapify(heap)
    while heap:
        moment, record, stream = heap[0]
        await pacer.wait_for(moment[0])
        yield record
        head = await stream.next()
        if head is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (*head, stream))
