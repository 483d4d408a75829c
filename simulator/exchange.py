"""The exchange without its sockets: the sources of trades, and all trades so far."""

import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Protocol

from msgspec.structs import replace

from simulator.books import Book
from simulator.market import SeededMarket, UntimedTrade
from simulator.notation import NS
from simulator.tape import Tape, TapeTrade

Clock = Callable[[], int]
"""Returns the unix time in nanoseconds."""

Batch = Mapping[str, Sequence[TapeTrade]]
"""Trades that were emitted together, by symbol."""

_ORDER_SPACING_NS = 1_000
_HISTORY_CHUNK = 50_000


class Feed(Protocol):
    """A source of trades.

    Attributes:
        halted: Symbols that are not traded now.
    """

    @property
    def halted(self) -> set[str]:
        """To be changed."""

    @property
    def is_finished(self) -> bool:
        """True once no trade can follow."""

    def take(self, count: int, *, spread_ns: int = 0, whole_orders: bool = False) -> list[TapeTrade]:
        """The next trades, fewer at the end of the feed."""

    def take_history(self, count: int, *, remaining: int, start_ns: int, end_ns: int) -> list[TapeTrade]:
        """The next trades as if they had happened between these times; ``remaining`` counts these and all later."""

    def now_ns(self) -> int:
        """The market's current time."""


class SeededFeed:
    """Seeded trades that get the clock's time as they are taken."""

    is_finished = False

    def __init__(self, books: Sequence[Book], seed: int, clock: Clock = time.time_ns) -> None:
        self._market = SeededMarket(books, seed)
        self._random = Random(f"{seed}/times")
        self._clock = clock
        self._last_ns = 0

    @property
    def halted(self) -> set[str]:
        """Symbols that are not traded now."""
        return self._market.halted

    def now_ns(self) -> int:
        """The clock's time, or the newest trade's if the clock stepped back."""
        return max(self._clock(), self._last_ns)

    def skip_ids(self, symbol: str, count: int) -> None:
        """Leave out a book's next ids: no trade will ever have them."""
        self._market.skip_ids(symbol, count)

    def take(self, count: int, *, spread_ns: int = 0, whole_orders: bool = False) -> list[TapeTrade]:
        """The next trades, stamped now.

        Args:
            spread_ns: The orders are spread over this long before now. If it is 0, each is a microsecond after
                the previous one, beginning now.
            whole_orders: Take a few more rather than cut an order in two.
        """
        trades = self._market.take(count)
        if whole_orders:
            trades += self._market.take_rest_of_order()
        moment = self._clock() - spread_ns
        spacing = max(spread_ns // max(len(trades), 1), _ORDER_SPACING_NS)
        timed: list[TapeTrade] = []
        for at, trade in enumerate(trades):
            if trade.starts_order or not at:
                self._last_ns = max(self._last_ns, moment + int(self._random.random() * _ORDER_SPACING_NS))
            moment += spacing
            timed.append(_timed(trade, self._last_ns))
        return timed

    def take_history(self, count: int, *, remaining: int, start_ns: int, end_ns: int) -> list[TapeTrade]:
        """The next trades of a history, at random times: each time is drawn as the lowest of the remaining ones."""
        moment = order_ns = max(self._last_ns, start_ns)
        timed: list[TapeTrade] = []
        for at, trade in enumerate(self._market.take(count)):
            moment += int((end_ns - moment) * (1.0 - self._random.random() ** (1.0 / (remaining - at))))
            if trade.starts_order or not at:
                order_ns = moment
            timed.append(_timed(trade, order_ns))
        self._last_ns = moment
        return timed


class RecordedFeed:
    """A recording, with its own ids and times. Its current time is that of the newest played trade."""

    def __init__(self, trades: Sequence[TapeTrade]) -> None:
        self._trades = trades
        self._played = 0
        self.halted: set[str] = set()

    @property
    def is_finished(self) -> bool:
        """True once every trade was played."""
        return self._played == len(self._trades)

    def now_ns(self) -> int:
        """The newest played trade's time; before the first is played, the first one's."""
        return self._trades[max(self._played - 1, 0)].time_ns

    def take(self, count: int, *, spread_ns: int = 0, whole_orders: bool = False) -> list[TapeTrade]:
        """The next recorded trades, fewer at its end; none while their symbol is halted."""
        if self.halted:
            return []
        start, self._played = self._played, min(self._played + count, len(self._trades))
        return list(self._trades[start : self._played])

    def take_history(self, count: int, *, remaining: int, start_ns: int, end_ns: int) -> list[TapeTrade]:
        """As :meth:`take`: a recording has its own times."""
        return self.take(count)


class Exchange:
    """All books and their trades; only :meth:`emit` and :meth:`emit_history` add trades.

    Args:
        kept_trades: Number of the newest trades to keep per book, as :class:`Tape` takes it.

    Attributes:
        system: The state of the matching engine, as ``status`` names it.
        busted: By symbol, ids of trades that were undone: they were sent, but REST and snapshots lack them now.
    """

    def __init__(self, books: Sequence[Book], feed: Feed, kept_trades: int | None = None) -> None:
        self.books = {book.symbol: book for book in books}
        self.tapes = {book.symbol: Tape(book, kept_trades) for book in books}
        self.emitted = 0
        self.system = "online"
        self.busted: dict[str, set[int]] = {book.symbol: set() for book in books}
        self._feed = feed

    @property
    def delisted(self) -> set[str]:
        """Symbols that are neither traded nor listed now; add to it or take from it."""
        return self._feed.halted

    @property
    def listed(self) -> list[Book]:
        """The books that are not delisted."""
        return [book for symbol, book in self.books.items() if symbol not in self.delisted]

    def shown(self, symbol: str, start: int, count: int) -> list[TapeTrade]:
        """Up to ``count`` trades from a place of a tape on, without the busted ones."""
        tape, busted = self.tapes[symbol], self.busted[symbol]
        trades = tape.trades(start, start + count + len(busted))
        return [trade for trade in trades if trade.id not in busted][:count]

    def latest_shown(self, symbol: str, count: int) -> list[TapeTrade]:
        """The newest trades without the busted ones, oldest of them first."""
        busted = self.busted[symbol]
        trades = self.tapes[symbol].latest(count + len(busted))
        return [trade for trade in trades if trade.id not in busted][-count:]

    @property
    def is_finished(self) -> bool:
        """True once a recording was played to its end."""
        return self._feed.is_finished

    def now_ns(self) -> int:
        """The market's current time: the clock's for seeded trades, the newest trade's for a recording."""
        return self._feed.now_ns()

    def emit(self, count: int, *, spread_ns: int = 0, whole_orders: bool = False) -> Batch:
        """Make and keep trades; see :meth:`SeededFeed.take` for the options."""
        return self._keep(self._feed.take(count, spread_ns=spread_ns, whole_orders=whole_orders))

    def emit_at_once(self, count: int) -> Batch:
        """Make and keep trades that share one instant, to the nanosecond."""
        trades = self._feed.take(count)
        return self._keep([replace(trade, time_ns=trades[-1].time_ns) for trade in trades])

    def emit_history(self, count: int, hours: float) -> None:
        """Make trades of the last ``hours``, before any client connects."""
        end_ns = self.now_ns() - 1
        start_ns = end_ns - int(hours * 3600 * NS)
        for done in range(0, count, _HISTORY_CHUNK):
            remaining = count - done
            chunk = min(_HISTORY_CHUNK, remaining)
            self._keep(self._feed.take_history(chunk, remaining=remaining, start_ns=start_ns, end_ns=end_ns))

    def _keep(self, trades: Sequence[TapeTrade]) -> Batch:
        batch: dict[str, list[TapeTrade]] = {}
        for trade in trades:
            batch.setdefault(trade.symbol, []).append(trade)
        for symbol, of_symbol in batch.items():
            self.tapes[symbol].extend(of_symbol)
        self.emitted += len(trades)
        return batch


def _timed(trade: UntimedTrade, time_ns: int) -> TapeTrade:
    return TapeTrade(trade.symbol, trade.id, time_ns, trade.price, trade.volume, trade.is_buy, trade.is_market)
