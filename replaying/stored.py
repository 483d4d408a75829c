"""What a replay reads of the database: which symbols, their decimals, the trades, and pages of older trades."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from kraken_history.errors import UsageError
from kraken_history.intervals import Span
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.database import Database
from kraken_history.reading.gaps import TradeGapsChoice
from kraken_history.records import HistoricalTrade
from replaying.feed import tape_trade
from simulator.books import Book, make_books
from simulator.notation import VOLUME_DECIMALS, rest_time
from simulator.rest import DroppedPage
from simulator.tape import TapeTrade

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_STEP = timedelta(days=32)  # so that a statement opens, and locks, the partitions of few days


class Wanted(Struct, frozen=True):
    """What to replay.

    Attributes:
        symbols: Any names; empty for all stored symbols.
        speed: Seconds of history per second; None for as fast as possible.
        gaps: What to do if part of the range is missing.
    """

    symbols: Sequence[str]
    start: datetime
    end: datetime
    speed: float | None = 1.0
    gaps: TradeGapsChoice = "raise"

    @property
    def span(self) -> Span:
        """The range."""
        return self.start, self.end


class StoredHistory:
    """One database, as the source of a replay; ``provider`` must be open."""

    def __init__(self, provider: HistoricalDataProvider, wanted: Wanted) -> None:
        self._provider = provider
        self._wanted = wanted

    async def symbols(self) -> list[str]:
        """The symbols to replay, under our names.

        Raises:
            UnknownSymbol: Nothing is stored of one.
            UsageError: Nothing is stored at all.
        """
        if self._wanted.symbols:
            return list(dict.fromkeys([await self._provider.find_symbol(name) for name in self._wanted.symbols]))
        stored = await self._provider.get_symbols()
        if not stored:
            raise UsageError("nothing is stored yet: start `kraken-history up`")
        return stored

    def trades(self, symbols: Sequence[str]) -> AsyncGenerator[HistoricalTrade, None]:
        """The trades of the range by time; raises CoverageError at the first step if some of them are missing."""
        replay = self._provider.replay(symbols, [], *self._wanted.span, 0, with_trades=True, gaps=self._wanted.gaps)
        return _trades_of(replay)

    async def page(self, book: Book, page: DroppedPage, newest: TapeTrade | None) -> list[TapeTrade]:
        """The trades of a page of REST: the oldest of the replay from ``since`` on, and none after ``newest``."""
        start = max(self._wanted.start, _EPOCH + first_microsecond(page.since) * _MICROSECOND)
        end = _EPOCH + (0 if newest is None else newest.time_ns // 1000 + 1) * _MICROSECOND
        if start >= end:
            return []
        trades = await self._provider.get_trades(book.symbol, start, end, page.count, gaps="ignore")
        return [tape_trade(book, trade) for trade in trades]


async def _trades_of(replay: AsyncGenerator[object, None]) -> AsyncGenerator[HistoricalTrade, None]:
    try:
        async for record in replay:
            assert isinstance(record, HistoricalTrade)  # no candles were asked for
            yield record
    finally:
        await replay.aclose()


def first_microsecond(since: float) -> int:
    """The first unix time in microseconds that is at or after ``since`` when both are compared as float64 seconds."""
    moment = max(int(since * 1e6) - 2, 0)
    while rest_time(moment * 1000) < since:
        moment += 1
    return moment


async def read_books(database_url: str, symbols: Sequence[str], span: Span) -> list[Book]:
    """The books of these symbols, with the decimals that Kraken has, or that the stored prices of the range need.

    Raises:
        UsageError: A stored volume has more decimals than Kraken sends.
    """
    decimals: dict[str, int] = dict.fromkeys(symbols, 0)
    database = Database(database_url, 1, 1)
    await database.open()
    try:
        start, end = span
        while start < end:
            stop = min(end, start + _LONGEST_STEP)
            for symbol, of_price, of_volume in await database.fetch(_DECIMALS, list(symbols), start, stop):
                if of_volume > VOLUME_DECIMALS:
                    raise UsageError(
                        f"cannot replay {symbol}: expected volumes of at most {VOLUME_DECIMALS} decimals, got one of"
                        f" {of_volume}"
                    )
                decimals[symbol] = max(decimals[symbol], of_price)
            start = stop
    finally:
        await database.close()
    return make_books(symbols, decimals)


_DECIMALS = """
    SELECT symbol, max(scale(trim_scale(price))), max(scale(trim_scale(volume))) FROM trades
    WHERE symbol = ANY($1) AND timestamp >= $2 AND timestamp < $3 GROUP BY symbol
"""


def by_symbol(books: Sequence[Book]) -> Mapping[str, Book]:
    """The books by symbol."""
    return {book.symbol: book for book in books}
