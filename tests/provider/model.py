"""What reads must return, computed in Python from the raw trades."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from kraken_history.records import EXACT, HistoricalCandle, HistoricalTrade, truncated_vwap

A_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)


class Model:
    """The trades that are stored, and every answer that follows from them."""

    def __init__(self) -> None:
        self.trades: dict[tuple[str, int], HistoricalTrade] = {}

    def add(self, trades: Iterable[HistoricalTrade]) -> None:
        """Store trades; the first of an id counts."""
        for trade in trades:
            self.trades.setdefault((trade.symbol, trade.id), trade)

    def symbols(self) -> list[str]:
        return sorted({symbol for symbol, _ in self.trades})

    def trades_of(self, symbol: str) -> list[HistoricalTrade]:
        """By time, then by id."""
        mine = [trade for trade in self.trades.values() if trade.symbol == symbol]
        return sorted(mine, key=lambda trade: (trade.timestamp, trade.id))

    def trades_between(self, symbol: str, start: datetime, end: datetime) -> list[HistoricalTrade]:
        return [trade for trade in self.trades_of(symbol) if start <= trade.timestamp < end]

    def candles_of(self, symbol: str, interval: int) -> list[HistoricalCandle]:
        """All candles of an interval, the running one included."""
        buckets: dict[datetime, list[HistoricalTrade]] = {}
        for trade in self.trades_of(symbol):
            buckets.setdefault(_floor(trade.timestamp, interval), []).append(trade)
        return [_candle(symbol, interval, opens, buckets[opens]) for opens in sorted(buckets)]

    def candles_between(self, symbol: str, interval: int, start: datetime, end: datetime) -> list[HistoricalCandle]:
        """Those that open at or after ``start`` and close at or before ``end``."""
        width = timedelta(minutes=interval)
        return [c for c in self.candles_of(symbol, interval) if start <= c.timestamp and c.timestamp + width <= end]


def _floor(moment: datetime, interval: int) -> datetime:
    origin = A_MONDAY + timedelta(weeks=1565)  # the first Monday of 2000
    return origin + (moment - origin) // timedelta(minutes=interval) * timedelta(minutes=interval)


def _candle(symbol: str, interval: int, opens: datetime, trades: list[HistoricalTrade]) -> HistoricalCandle:
    # Within a minute the ids tell the order; between minutes the time does.
    in_order = sorted(trades, key=lambda trade: (_floor(trade.timestamp, 1), trade.id))
    volume = quote_volume = trades[0].volume * 0
    for trade in trades:
        volume = EXACT.add(volume, trade.volume)
        quote_volume = EXACT.add(quote_volume, EXACT.multiply(trade.price, trade.volume))
    prices = [trade.price for trade in trades]
    return HistoricalCandle(
        symbol, opens, interval, in_order[0].price, max(prices), min(prices), in_order[-1].price, volume, quote_volume,
        len(trades), truncated_vwap(quote_volume, volume), "trades",
    )  # fmt: skip
