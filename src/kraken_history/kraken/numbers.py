"""Validation of symbols, trades and candles before they are stored."""

import re
from datetime import UTC
from decimal import Decimal, InvalidOperation

from kraken_history.records import HistoricalCandle, HistoricalTrade, floor_minute

_SYMBOL = re.compile(r"[A-Za-z0-9.]{1,16}/[A-Za-z0-9.]{1,16}")

# Bounds of prices and volumes: wider than any market, and far within PostgreSQL's numeric. They exclude 1e999999999.
_SMALLEST = Decimal("1e-30")
_LARGEST = Decimal("1e30")
_ZERO = Decimal(0)

# Longest accepted numbers, in characters (quicker to count than digits). Within these bounds, products and sums of
# the numbers are exact.
_LONGEST_TRADE_NUMBER = 48
_LONGEST_CANDLE_NUMBER = 100

_MOST_TRADES_A_CANDLE = 2**31 - 1  # the column is an integer of four bytes


def check_symbol(symbol: str) -> None:
    """Raise ValueError unless this is shaped like ``BTC/USDT``."""
    if not _SYMBOL.fullmatch(symbol):
        raise ValueError(f"expected a symbol such as BTC/USDT, got {symbol!r}")


def check_trade(trade: HistoricalTrade) -> None:
    """Raise ValueError unless price and volume are positive numbers within the bounds above, and the time is UTC."""
    price, volume = trade.price, trade.volume
    try:
        if (
            _SMALLEST < price < _LARGEST
            and _SMALLEST < volume < _LARGEST
            and len(str(price)) <= _LONGEST_TRADE_NUMBER
            and len(str(volume)) <= _LONGEST_TRADE_NUMBER
            and trade.timestamp.tzinfo is UTC
        ):
            return
    except InvalidOperation:  # NaN has no order
        pass
    raise ValueError(
        f"invalid trade {trade.id}: expected a positive price and volume, and a time in UTC,"
        f" got {price!s:.60}, {volume!s:.60} and {trade.timestamp}"
    )


def check_candle(candle: HistoricalCandle) -> None:
    """Raise ValueError unless the candle starts at a full minute (UTC) and its numbers are consistent.

    Prices must be positive, volumes must not be negative, and high and low must enclose open and close.
    """
    try:
        if (
            _SMALLEST < candle.low <= min(candle.open, candle.close)
            and max(candle.open, candle.close) <= candle.high < _LARGEST
            and all(_ZERO <= n < _LARGEST for n in (candle.volume, candle.vwap))
            and _ZERO <= candle.quote_volume < _LARGEST * _LARGEST
            and candle.trade_count <= _MOST_TRADES_A_CANDLE
            and all(len(f"{n:f}") <= _LONGEST_CANDLE_NUMBER for n in _numbers(candle))
            and len(f"{candle.quote_volume:f}") <= 2 * _LONGEST_CANDLE_NUMBER
            and candle.timestamp.tzinfo is UTC
            and candle.timestamp == floor_minute(candle.timestamp)
        ):
            return
    except InvalidOperation:
        pass
    raise ValueError(f"invalid candle {candle.timestamp}: start time, prices or volumes out of range")


def _numbers(candle: HistoricalCandle) -> tuple[Decimal, ...]:
    return candle.open, candle.high, candle.low, candle.close, candle.volume, candle.vwap
