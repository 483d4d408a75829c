"""An endless sequence of seeded trades. The same seed and symbols give the same trades, whenever they are taken.

No clock here: a trade gets its time when it is emitted, so the sequence of (symbol, id, price, volume,
side, order type) cannot depend on timing.
"""

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from random import Random

from msgspec import Struct

from simulator.books import Book

_LOTS = 10**8


class UntimedTrade(Struct, frozen=True, gc=False):
    """A trade before its time is known; price in ticks, volume in lots.

    Attributes:
        starts_order: The first trade of one taker's order; the rest of the order shares its time.
    """

    symbol: str
    id: int
    price: int
    volume: int
    is_buy: bool
    is_market: bool
    starts_order: bool


class SeededMarket:
    """Takers' orders over several books, by the books' shares, each filled by one or more trades."""

    def __init__(self, books: Sequence[Book], seed: int) -> None:
        self._random = Random(f"{seed}/orders")
        self._flows = [_Flow(book, seed, can_sleep=bool(rank)) for rank, book in enumerate(_busiest_first(books))]
        self._shares = list(accumulate(flow.book.share for flow in self._flows))
        self._rest_of_order: list[UntimedTrade] = []
        self.halted: set[str] = set()
        """Symbols that are not traded."""

    def take(self, count: int) -> list[UntimedTrade]:
        """The next ``count`` trades; the last order may be cut, and its rest comes first the next time.

        There are fewer if every symbol is halted.
        """
        trades = self._rest_of_order
        while len(trades) < count and not self._is_halted:
            trades += self._next_order()
        self._rest_of_order = trades[count:]
        return trades[:count]

    def take_rest_of_order(self) -> list[UntimedTrade]:
        """Return the rest of the order that the last :meth:`take` cut."""
        rest, self._rest_of_order = self._rest_of_order, []
        return rest

    def skip_ids(self, symbol: str, count: int) -> None:
        """Leave out the next ids of a book, as if Kraken had not given them to any trade."""
        (flow,) = [flow for flow in self._flows if flow.book.symbol == symbol]
        flow.skip_ids(count)

    @property
    def _is_halted(self) -> bool:
        return all(flow.book.symbol in self.halted for flow in self._flows)

    def _next_order(self) -> list[UntimedTrade]:
        while True:
            flow = self._flows[bisect(self._shares, self._random.random() * self._shares[-1])]
            if flow.book.symbol not in self.halted and not flow.is_asleep():
                return flow.next_order()


def _busiest_first(books: Sequence[Book]) -> list[Book]:
    return sorted(books, key=lambda book: (book.is_thin, -book.share, book.symbol))


class _Flow:
    """The orders of one book: a random walk that is pulled back softly to where it began."""

    def __init__(self, book: Book, seed: int, *, can_sleep: bool) -> None:
        self.book = book
        self._random = Random(f"{seed}/{book.symbol}")
        self._next_id = self._random.randrange(1_000, 50_000_000)
        self._home = float(book.start_ticks)
        self._mid = self._home * self._random.uniform(0.98, 1.02)
        self._usual_lots = 300.0 / float(book.start_price) * _LOTS if book.start_price > 1 else 100.0 * _LOTS
        self._can_sleep = can_sleep and book.is_thin
        self._is_asleep = True
        self._calls_until_turn = 0

    def skip_ids(self, count: int) -> None:
        """The next order's ids begin this much later."""
        self._next_id += count

    def is_asleep(self) -> bool:
        """True if the book lets this order pass; counts the call.

        Stretches of waking and sleeping are 5 to 2000 of the book's turns long, evenly in the logarithm: at the
        usual rates from seconds to hours, so that minutes without a trade occur. The first stretch is awake.
        """
        if not self._can_sleep:
            return False
        if not self._calls_until_turn:
            self._is_asleep = not self._is_asleep
            self._calls_until_turn = int(5 * 10 ** (2.6 * self._random.random()))
        self._calls_until_turn -= 1
        return self._is_asleep

    def next_order(self) -> list[UntimedTrade]:
        """One order and its trades: same side and type, prices running away from the taker."""
        random = self._random.random
        self._mid += self._random.gauss(0.0, 1.0) * self._home * 1e-4 + (self._home - self._mid) * 1e-4
        is_buy = random() < 0.5
        is_market = random() < 0.6
        price = max(round(self._mid) + (1 if is_buy else -1), 1)
        trades: list[UntimedTrade] = []
        for at in range(self._trades_in_order()):
            is_twin = at and random() < 0.08  # equal trades within one order are real: 15 of 1000 in the recording
            if at and not is_twin and random() < 0.5:
                price = max(price + (1 if is_buy else -1), 1)
            volume = trades[-1].volume if is_twin else self._lots()
            trades.append(
                UntimedTrade(self.book.symbol, self._next_id, price, volume, is_buy, is_market, starts_order=not at)
            )
            self._next_id += 1
        return trades

    def _trades_in_order(self) -> int:
        """Mostly one; up to 17, the longest run of equal times in the recording."""
        count = 1
        if self._random.random() < 0.28:
            count = 2
            while count < 17 and self._random.random() < 0.55:
                count += 1
        return count

    def _lots(self) -> int:
        lots = self._usual_lots * self._random.lognormvariate(-1.0, 1.6)
        if self._random.random() < 0.15:  # a round figure, as people type it
            step: int = 10 ** max(len(str(int(lots))) - 1, 0)
            return max(round(lots / step) * step, 1)
        return max(int(lots), 1)
