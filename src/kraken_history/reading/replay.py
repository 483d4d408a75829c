"""Replay of stored history, in order."""

import asyncio
import heapq
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Generic

from kraken_history.arguments import checked_list
from kraken_history.errors import InvalidNumber
from kraken_history.intervals import (
    Span,
    as_utc,
    bucket_start,
    checked_interval,
    checked_range,
    closed_window,
    width_of,
)
from kraken_history.kraken.pairs import checked_name, find_stored
from kraken_history.reading.candles import Extent, checked_count, read_extent, read_span, require_symbol
from kraken_history.reading.database import Database
from kraken_history.reading.names import by_any_name, read_symbols
from kraken_history.reading.pages import PAGE_ROWS, Pages
from kraken_history.reading.trades import TradePages
from kraken_history.records import HistoricalCandle, HistoricalTrade, Record

_FIRST_REACH = timedelta(days=31)
"""Maximum length of a replay's first window: so the first long candles arrive soon, even if all are aggregated."""

_LONGEST_REACH = timedelta(days=4 * 365)
"""Maximum length of a window of candles: four years, two hundred partitions."""

_MERGED_ROWS = 8 * PAGE_ROWS
"""Maximum number of records that a merged replay buffers, unless a stream would get less than ``_FEWEST_ROWS``."""

_FEWEST_ROWS = 256  # minimum number of records per page and stream of a merged replay
_BEGINNING = as_utc(datetime.min.replace(tzinfo=UTC))


@by_any_name
async def read_lookback(
    database: Database, symbol: str, interval: int, end: datetime, lookback: int
) -> list[HistoricalCandle]:
    """Candles of the last ``lookback`` buckets that are closed at ``end``, oldest first; quiet buckets have none."""
    interval, lookback = checked_interval(interval), checked_count("lookback", lookback)
    width = width_of(interval)
    last = bucket_start(as_utc(end), width)
    buckets = min(lookback, (last - _BEGINNING) // width)
    candles = await read_span(database, symbol, interval, (last - buckets * width, last)) if buckets > 0 else []
    if not candles:
        await require_symbol(database, symbol)
    return candles


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
    clock: Clock | None = None,
) -> AsyncGenerator[HistoricalCandle, None]:
    """The candles that open at or after ``start`` and are closed at ``end``, one by one.

    Arguments are checked at once; the symbol is looked up at the first step. If the caller stops early, nothing stays
    open: between two pages the replay holds no connection.
    """
    span, minutes = closed_window(start, end, interval), checked_interval(interval)
    return _replay(
        database,
        checked_name(symbol),
        lambda name: CandlePages(database, name, minutes, span),
        Pacer(speed, clock or Clock()),
    )


def replay_trades(
    database: Database, symbol: str, start: datetime, end: datetime, speed: float, clock: Clock | None = None
) -> AsyncGenerator[HistoricalTrade, None]:
    """The trades of ``[start, end)``, one by one; otherwise as :func:`replay_candles`."""
    span = checked_range(start, end)
    return _replay(
        database, checked_name(symbol), lambda name: TradePages(database, name, span), Pacer(speed, clock or Clock())
    )


async def _replay(
    database: Database, name: str, pages_of: Callable[[str], Pages[Record]], pacer: Pacer
) -> AsyncGenerator[Record, None]:
    pages, page = await _begin(database, name, pages_of)
    while page:
        for record in page:
            await pacer.wait_for(record.timestamp)
            yield record
        page = await pages.read()


@by_any_name
async def _begin(
    database: Database, symbol: str, pages_of: Callable[[str], Pages[Record]]
) -> tuple[Pages[Record], list[Record]]:
    """The pages of a symbol, and the records of the first one."""
    pages = pages_of(symbol)
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
    clock: Clock | None = None,
) -> AsyncGenerator[HistoricalCandle | HistoricalTrade, None]:
    """Candles of all symbols and intervals, and trades, in the order in which they become known.

    A candle is known when it closes. At the same instant candles come before trades, shorter candles before longer
    ones, otherwise in the order of ``symbols``; trades of a symbol by id. Duplicate symbols and intervals count once.

    Raises:
        UsageError: An argument is not valid; raised at once.
    """
    pacer = Pacer(speed, clock or Clock())
    trades_span = checked_range(start, end)
    names = checked_list("symbols", symbols, checked_name)
    lengths = checked_list("intervals", intervals, checked_interval, may_be_empty=with_trades)
    spans = {length: closed_window(start, end, length) for length in lengths}
    return _replay_merged(database, names, spans, trades_span if with_trades else None, pacer)


async def _replay_merged(
    database: Database, names: Sequence[str], spans: Mapping[int, Span], trades_span: Span | None, pacer: Pacer
) -> AsyncGenerator[HistoricalCandle | HistoricalTrade, None]:
    stored = await read_symbols(database)
    symbols = list(dict.fromkeys(find_stored(name, stored) for name in names))
    count = len(symbols) * (len(spans) + (trades_span is not None))
    rows = max(_FEWEST_ROWS, min(PAGE_ROWS, _MERGED_ROWS // count))
    streams: list[AnyStream] = []
    for place, symbol in enumerate(symbols):
        for length, span in spans.items():
            candles = CandlePages(database, symbol, length, span, rows)
            streams.append(Stream(candles.read, candle_moment(length, place)))
        if trades_span is not None:
            trades = TradePages(database, symbol, trades_span, rows)
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
