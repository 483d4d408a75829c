"""One-minute candles as their trades say, added up trade by trade.

Because every trade passes the ledger exactly once, a candle can be kept by addition: each batch
contributes a :class:`CandleDelta` for each minute that it touches, and deltas of the same minute merge in
any order to the same candle.
"""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal, localcontext

from kraken_history.records import EXACT, MINUTE, HistoricalCandle, HistoricalTrade, floor_minute, truncated_vwap


class CandleDelta:
    """What some trades of one symbol and minute add to its candle.

    Open and close belong to the lowest and the highest trade id, not to the first and last timestamp,
    which are not unique.
    """

    __slots__ = (
        "close",
        "end",
        "first_trade_id",
        "high",
        "last_trade_id",
        "low",
        "minute",
        "open",
        "quote_volume",
        "symbol",
        "trade_count",
        "volume",
    )

    def __init__(self, minute: datetime, trade: HistoricalTrade) -> None:
        self.symbol = trade.symbol
        self.minute = minute
        self.end = minute + MINUTE
        self.open = self.high = self.low = self.close = trade.price
        self.first_trade_id = self.last_trade_id = trade.id
        self.volume = Decimal(0)
        self.quote_volume = Decimal(0)
        self.trade_count = 0
        self.add(trade)

    def add(self, trade: HistoricalTrade) -> None:
        """Count one more trade, under an exact decimal context."""
        price = trade.price
        if price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        if trade.id < self.first_trade_id:
            self.first_trade_id, self.open = trade.id, price
        elif trade.id > self.last_trade_id:
            self.last_trade_id, self.close = trade.id, price
        self.volume += trade.volume
        self.quote_volume += price * trade.volume
        self.trade_count += 1

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
        )


def candle_deltas(trades: Iterable[HistoricalTrade]) -> dict[tuple[str, datetime], CandleDelta]:
    """Group trades by symbol and minute. Each trade must come once; the order does not matter."""
    deltas: dict[tuple[str, datetime], CandleDelta] = {}
    latest: CandleDelta | None = None
    with localcontext(EXACT):
        for trade in trades:
            # Neighbours mostly share a minute, and comparing is much cheaper than flooring and looking up.
            if latest is not None and trade.symbol == latest.symbol and latest.minute <= trade.timestamp < latest.end:
                latest.add(trade)
                continue
            key = trade.symbol, floor_minute(trade.timestamp)
            latest = deltas.get(key)
            if latest is None:
                latest = deltas[key] = CandleDelta(key[1], trade)
            else:
                latest.add(trade)
    return deltas


def build_candles(trades: Iterable[HistoricalTrade]) -> list[HistoricalCandle]:
    """The one-minute candles of these trades, by symbol and time; minutes without trades have none."""
    deltas = candle_deltas(trades)
    return [deltas[key].candle() for key in sorted(deltas)]
