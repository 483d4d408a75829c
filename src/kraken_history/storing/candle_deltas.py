"""Computes one-minute candles from their trades, by addition.

Because every trade passes the ledger exactly once, a candle can be updated by addition: each batch
contributes a :class:`CandleDelta` per minute, and deltas of the same minute merge in any order to the
same candle.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal, localcontext
from operator import attrgetter, mul

from kraken_history.records import EXACT, MINUTE, HistoricalCandle, HistoricalTrade, floor_minute, truncated_vwap

_ZERO = Decimal(0)
_id = attrgetter("id")


class CandleDelta:
    """The contribution of some trades of one symbol and minute to its candle.

    Open and close belong to the lowest and the highest trade id, not to the first and last timestamp,
    which are not unique.

    Args:
        minute: Open time of the candle.
        trades: At least one trade of one symbol in that minute, each once, in any order.
    """

    def __init__(self, minute: datetime, trades: Sequence[HistoricalTrade]) -> None:
        prices = [trade.price for trade in trades]
        volumes = [trade.volume for trade in trades]
        first, last = min(trades, key=_id), max(trades, key=_id)
        self.symbol = first.symbol
        self.minute = minute
        self.open, self.close = first.price, last.price
        self.high, self.low = max(prices), min(prices)
        self.first_trade_id, self.last_trade_id = first.id, last.id
        self.volume = sum(volumes, _ZERO)
        self.quote_volume = sum(map(mul, prices, volumes), _ZERO)
        self.trade_count = len(trades)

    def merge(self, other: "CandleDelta") -> None:
        """Add the contribution of other trades of the same symbol and minute."""
        if other.first_trade_id < self.first_trade_id:
            self.first_trade_id, self.open = other.first_trade_id, other.open
        if other.last_trade_id > self.last_trade_id:
            self.last_trade_id, self.close = other.last_trade_id, other.close
        self.high = max(self.high, other.high)
        self.low = min(self.low, other.low)
        self.volume += other.volume
        self.quote_volume += other.quote_volume
        self.trade_count += other.trade_count

    def candle(self) -> HistoricalCandle:
        """The candle of exactly these trades."""
        return HistoricalCandle(
            self.symbol,
            self.minute,
            1,
            self.open,
            self.high,
            self.low,
            self.close,
            self.volume,
            self.quote_volume,
            self.trade_count,
            truncated_vwap(self.quote_volume, self.volume),
            "trades",
        )


def candle_deltas(trades: Sequence[HistoricalTrade]) -> dict[tuple[str, datetime], CandleDelta]:
    """Group trades by symbol and minute. Each trade must occur once; the order does not matter.

    Fastest if trades of one symbol and minute are adjacent.
    """
    deltas: dict[tuple[str, datetime], CandleDelta] = {}
    with localcontext(EXACT):
        for minute, run in _runs(trades):
            delta = CandleDelta(minute, run)
            known = deltas.setdefault((delta.symbol, minute), delta)
            if known is not delta:
                known.merge(delta)
    return deltas


def _runs(trades: Sequence[HistoricalTrade]) -> Iterator[tuple[datetime, Sequence[HistoricalTrade]]]:
    """Runs of adjacent trades with the same symbol and minute."""
    start = 0
    while start < len(trades):
        symbol = trades[start].symbol
        minute = floor_minute(trades[start].timestamp)
        end = minute + MINUTE
        stop = start + 1
        while stop < len(trades) and trades[stop].symbol == symbol and minute <= trades[stop].timestamp < end:
            stop += 1
        yield minute, trades[start:stop]
        start = stop


def build_candles(trades: Sequence[HistoricalTrade]) -> list[HistoricalCandle]:
    """The one-minute candles of these trades, by symbol and time; minutes without trades have none."""
    deltas = candle_deltas(trades)
    return [deltas[key].candle() for key in sorted(deltas)]
