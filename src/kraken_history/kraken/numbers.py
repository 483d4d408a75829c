"""What a symbol, a price and a volume must look like to be let in."""

import re
from decimal import Decimal, InvalidOperation

from kraken_history.records import HistoricalCandle, HistoricalTrade

_SYMBOL = re.compile(r"[A-Z0-9.]{1,16}/[A-Z0-9.]{1,16}", re.IGNORECASE)

# Wider than any market, and far inside what PostgreSQL's numeric holds; keeps 1e999999999 out.
_SMALLEST = Decimal("1e-30")
_LARGEST = Decimal("1e30")
_ZERO = Decimal(0)

_MOST_TRADES_A_CANDLE = 2**31 - 1


def check_symbol(symbol: str) -> None:
    """Raise ValueError unless this is shaped like ``BTC/USDT``."""
    if not _SYMBOL.fullmatch(symbol):
        raise ValueError(f"{symbol!r} is not a symbol")


def check_trade(trade: HistoricalTrade) -> None:
    """Raise ValueError unless price and volume are positive numbers of sane size."""
    try:
        if _SMALLEST < trade.price < _LARGEST and _SMALLEST < trade.volume < _LARGEST:
            return
    except InvalidOperation:  # NaN has no order
        pass
    raise ValueError(f"trade {trade.id}: price {trade.price} and volume {trade.volume} must be positive numbers")


def check_candle(candle: HistoricalCandle) -> None:
    """Raise ValueError unless prices are positive, volumes not negative, and high and low enclose the rest."""
    try:
        if (
            _SMALLEST < candle.low <= min(candle.open, candle.close)
            and max(candle.open, candle.close) <= candle.high < _LARGEST
            and all(_ZERO <= n < _LARGEST for n in (candle.volume, candle.vwap))
            and _ZERO <= candle.quote_volume < _LARGEST * _LARGEST
            and candle.trade_count <= _MOST_TRADES_A_CANDLE
        ):
            return
    except InvalidOperation:
        pass
    raise ValueError(f"candle {candle.timestamp}: its prices or volumes cannot be")
