"""Stored trades as the exchange takes them, one order at a time, however many there are."""

from collections.abc import AsyncIterator, Mapping

from kraken_history.errors import UsageError
from kraken_history.records import HistoricalTrade, unix_ns
from simulator.books import Book
from simulator.exchange import Clock
from simulator.notation import VOLUME_DECIMALS, units_of
from simulator.tape import TapeTrade


def tape_trade(book: Book, trade: HistoricalTrade) -> TapeTrade:
    """A stored trade, digit for digit.

    Raises:
        UsageError: Its price or volume has more decimals than Kraken sends for this pair.
    """
    try:
        price, volume = units_of(trade.price, book.price_decimals), units_of(trade.volume, VOLUME_DECIMALS)
    except ValueError as error:
        raise UsageError(f"cannot replay trade {trade.id} of {trade.symbol}: {error}") from error
    is_buy, is_market = trade.side == "buy", trade.order_type == "market"
    return TapeTrade(book.symbol, trade.id, unix_ns(trade.timestamp), price, volume, is_buy, is_market, trade.misc)


class StoredFeed:
    """The trades of a replay. :meth:`read_order` reads them ahead, :meth:`take` hands them to the exchange.

    An order is what shares a symbol and an instant, so that the frames do not depend on the speed.

    Attributes:
        order: The trades of the order that was read last, without those that were taken.

    Args:
        trades: All symbols together, by time.
        clock: The market's current time.
    """

    def __init__(self, trades: AsyncIterator[HistoricalTrade], books: Mapping[str, Book], clock: Clock) -> None:
        self.halted: set[str] = set()
        self.is_finished = False
        self._trades = trades
        self._books = books
        self._clock = clock
        self.order: list[TapeTrade] = []
        self._next: TapeTrade | None = None
        self._is_begun = False

    async def read_order(self) -> list[TapeTrade]:
        """The next order, which :meth:`take` then gives; empty at the end.

        Raises:
            HistoryError: The trades cannot be read, or cannot be replayed.
        """
        if not self._is_begun:
            self._is_begun, self._next = True, await self._read()
        self.order = []
        while self._next is not None and self._belongs(self._next):
            self.order.append(self._next)
            self._next = await self._read()
        self.is_finished = not self.order
        return self.order

    def now_ns(self) -> int:
        """The replay's time."""
        return self._clock()

    def take(self, count: int, *, spread_ns: int = 0, whole_orders: bool = False) -> list[TapeTrade]:
        """The first ``count`` trades of the order that was read."""
        taken, self.order = self.order[:count], self.order[count:]
        return taken

    def take_history(self, count: int, *, remaining: int, start_ns: int, end_ns: int) -> list[TapeTrade]:
        """As :meth:`take`: stored trades have their own times."""
        return self.take(count)

    def _belongs(self, trade: TapeTrade) -> bool:
        return not self.order or (trade.symbol, trade.time_ns) == (self.order[0].symbol, self.order[0].time_ns)

    async def _read(self) -> TapeTrade | None:
        trade = await anext(self._trades, None)
        return None if trade is None else tape_trade(self._books[trade.symbol], trade)
