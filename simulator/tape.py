"""Everything that one book has traded, kept in columns of machine integers: about 33 bytes per trade."""

from array import array
from bisect import bisect_left
from collections.abc import Sequence

from msgspec import Struct

from kraken_history.kraken.websocket import OHLC_INTERVALS
from simulator.books import Book
from simulator.candle_series import CandleSeries
from simulator.notation import rest_time

KEPT_CANDLES = 800
"""Number of the newest candles that a bounded tape keeps per interval: more than an answer of OHLC has."""

_BUY, _MARKET = 1, 2


class TapeTrade(Struct, frozen=True, gc=False):
    """One trade.

    Attributes:
        price: In ticks.
        volume: In lots of 1e-8.
        is_buy: The taker's side; a sell otherwise.
        is_market: The taker's order type; a limit order otherwise.
    """

    symbol: str
    id: int
    time_ns: int
    price: int
    volume: int
    is_buy: bool
    is_market: bool
    misc: str = ""

    @property
    def side(self) -> str:
        """``buy`` or ``sell``."""
        return "buy" if self.is_buy else "sell"

    @property
    def order_type(self) -> str:
        """``market`` or ``limit``."""
        return "market" if self.is_market else "limit"


class Tape:
    """The trades of one book, ids rising and times never falling, and the candles that they make.

    Args:
        kept: Number of the newest trades that are always there; up to twice as many are. None keeps all of them.
            With a number, each series of candles keeps its newest :data:`KEPT_CANDLES`.
    """

    def __init__(self, book: Book, kept: int | None = None) -> None:
        self.book = book
        self.total_volume = 0
        self.is_cut = False
        self._kept = kept
        self._ids = array("q")
        self._times = array("q")
        self._prices = array("q")
        self._volumes = array("q")
        self._flags = array("B")
        self._misc: dict[int, str] = {}
        # Longer candles are made from the minutes when they are first asked for, unless minutes are dropped.
        self._series = {1: CandleSeries(1)}
        if kept is not None:
            self._series = {interval: CandleSeries(interval, KEPT_CANDLES) for interval in OHLC_INTERVALS}

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def first_id(self) -> int | None:
        """The oldest trade's id; None before the first trade."""
        return self._ids[0] if self._ids else None

    @property
    def last_id(self) -> int | None:
        """The newest trade's id; None before the first trade."""
        return self._ids[-1] if self._ids else None

    @property
    def last_time_ns(self) -> int:
        """The newest trade's time; 0 before the first trade."""
        return self._times[-1] if self._times else 0

    def extend(self, trades: Sequence[TapeTrade]) -> None:
        """Add newer trades of this book."""
        for trade in trades:
            if trade.misc:
                self._misc[len(self._ids)] = trade.misc
            self._ids.append(trade.id)
            self._times.append(trade.time_ns)
            self._prices.append(trade.price)
            self._volumes.append(trade.volume)
            self._flags.append(_BUY * trade.is_buy + _MARKET * trade.is_market)
            self.total_volume += trade.volume
        for series in self._series.values():
            for trade in trades:
                series.add(trade.time_ns, trade.price, trade.volume)
        if self._kept is not None and len(self) > 2 * self._kept:
            self._drop(len(self) - self._kept)

    def _drop(self, count: int) -> None:
        """Forget the oldest trades."""
        for column in (self._ids, self._times, self._prices, self._volumes, self._flags):
            del column[:count]
        self._misc = {place - count: misc for place, misc in self._misc.items() if place >= count}
        self.is_cut = True

    def holds_all_since(self, since: float) -> bool:
        """True if no trade at or after ``since``, as :meth:`place_since` takes it, was dropped."""
        return not self.is_cut or rest_time(self._times[0]) < since

    def trades(self, start: int, stop: int) -> list[TapeTrade]:
        """The trades at these places of the tape, counted from 0, ``stop`` excluded."""
        stop = min(stop, len(self))
        return [
            TapeTrade(
                self.book.symbol,
                self._ids[at],
                self._times[at],
                self._prices[at],
                self._volumes[at],
                bool(self._flags[at] & _BUY),
                bool(self._flags[at] & _MARKET),
                self._misc.get(at, ""),
            )
            for at in range(max(start, 0), stop)
        ]

    def latest(self, count: int) -> list[TapeTrade]:
        """The newest trades, oldest of them first."""
        return self.trades(len(self) - count, len(self))

    def place_of_id(self, trade_id: int) -> int:
        """Place of the first trade with this id or a greater one."""
        return bisect_left(self._ids, trade_id)

    def place_since(self, since: float) -> int:
        """Place of the first trade at or after ``since``, both compared as float64 seconds.

        Kraken compares like this: a query for an exact nanosecond returned trades whose *float64* time equals the
        float64 of that nanosecond (recorded queries of 2021).
        """
        return bisect_left(self._times, since, key=rest_time)

    def candles(self, interval_minutes: int) -> CandleSeries:
        """The candles of an interval that Kraken offers; kept up to date from the first call on."""
        series = self._series.get(interval_minutes)
        if series is None:
            series = self._series[interval_minutes] = self._series[1].merged(interval_minutes)
        return series

    def candles_once(self, interval_minutes: int) -> CandleSeries:
        """The candles of any interval, as they are now; they are not kept."""
        return self._series.get(interval_minutes) or self._series[1].merged(interval_minutes)
