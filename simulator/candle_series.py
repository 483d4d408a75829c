"""Candles of one book and interval, in ticks and lots; intervals begin at multiples of their length."""

from array import array
from bisect import bisect_left


class Candle:
    """The candle of the trades of one interval.

    Attributes:
        begin_s: Unix time of the interval's start.
        quote: Sum of ticks times lots; ``quote // volume`` is the vwap in ticks, truncated as by Kraken.
    """

    __slots__ = ("begin_s", "close", "count", "high", "low", "open", "quote", "volume")

    def __init__(self, begin_s: int, price: int) -> None:
        self.begin_s = begin_s
        self.open = self.high = self.low = self.close = price
        self.volume = self.quote = self.count = 0

    @property
    def vwap(self) -> int:
        """In ticks, truncated and not rounded. Source: 273 of 273 recorded minutes of REST OHLC."""
        return self.quote // self.volume if self.volume else 0

    def add(self, price: int, volume: int) -> None:
        """Count one more trade."""
        if price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        self.close = price
        self.volume += volume
        self.quote += price * volume
        self.count += 1

    def merge(self, later: "Candle") -> None:
        """Count the trades of a later candle."""
        self.high = max(self.high, later.high)
        self.low = min(self.low, later.low)
        self.close = later.close
        self.volume += later.volume
        self.quote += later.quote
        self.count += later.count


class CandleSeries:
    """Candles that have trades, oldest first; an interval without trades has none.

    Args:
        kept: Number of the newest candles that are always there; up to twice as many are. None keeps all of them.
    """

    def __init__(self, interval_minutes: int, kept: int | None = None) -> None:
        self.interval_minutes = interval_minutes
        self._kept = kept
        self.step_s = interval_minutes * 60
        self._step_ns = self.step_s * 1_000_000_000
        self._candles: list[Candle] = []
        self._begins = array("q")

    def __len__(self) -> int:
        return len(self._candles)

    def add(self, time_ns: int, price: int, volume: int) -> None:
        """Count a trade that is not older than the last one."""
        begin_s = time_ns // self._step_ns * self.step_s
        if not self._candles or self._begins[-1] != begin_s:
            self._append(Candle(begin_s, price))
        self._candles[-1].add(price, volume)

    def merged(self, interval_minutes: int) -> "CandleSeries":
        """The same trades in longer candles; the length must be a multiple of this series'."""
        longer = CandleSeries(interval_minutes)
        for candle in self._candles:
            begin_s = candle.begin_s // longer.step_s * longer.step_s
            if not longer._candles or longer._begins[-1] != begin_s:
                longer._append(Candle(begin_s, candle.open))
            longer._candles[-1].merge(candle)
        return longer

    def latest(self, count: int) -> list[Candle]:
        """The newest candles, oldest of them first."""
        return self._candles[-count:]

    def since(self, begin_s: int) -> list[Candle]:
        """The candles that begin at or after this unix time."""
        return self._candles[bisect_left(self._begins, begin_s) :]

    def last_before(self, begin_s: int) -> Candle | None:
        """The newest candle that begins before this unix time."""
        place = bisect_left(self._begins, begin_s)
        return self._candles[place - 1] if place else None

    def all(self) -> list[Candle]:
        """Every candle."""
        return list(self._candles)

    def _append(self, candle: Candle) -> None:
        self._candles.append(candle)
        self._begins.append(candle.begin_s)
        if self._kept is not None and len(self._candles) > 2 * self._kept:
            del self._candles[: -self._kept], self._begins[: -self._kept]
