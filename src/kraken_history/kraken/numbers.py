"""What a symbol, a price and a volume must look like to be let in."""

import re
from datetime import UTC
from decimal import Decimal, InvalidOperation

from kraken_history.records import HistoricalCandle, HistoricalTrade, floor_minute

_SYMBOL = re.compile(r"[A-Za-z0-9.]{1,16}/[A-Za-z0-9.]{1,16}")

# Wider than any market, and far inside what PostgreSQL's numeric holds; keeps 1e999999999 out.
_SMALLEST = Decimal("1e-30")
_LARGEST = Decimal("1e30")
_ZERO = Decimal(0)

# Characters, not digits, because that is quick to ask: what is let in can be multiplied and added up exactly.
_LONGEST_TRADE_NUMBER = 48
_LONGEST_CANDLE_NUMBER = 100

_MOST_TRADES_A_CANDLE = 2**31 - 1


def check_symbol(symbol: str) -> None:
    """Raise ValueError unless this is shaped like ``BTC/USDT``."""
    if not _SYMBOL.fullmatch(symbol):
        raise ValueError(f"{symbol!r} is not a symbol")


def check_trade(trade: HistoricalTrade) -> None:
    """Raise ValueError unless price and volume are positive numbers of sane size and length, and the time UTC."""
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
        f"trade {trade.id}: price {price!s:.60} and volume {volume!s:.60} must be positive numbers,"
        f" and the time {trade.timestamp} UTC"
    )


def check_candle(candle: HistoricalCandle) -> None:
    """Raise ValueError unless it starts at a minute (UTC), and its prices and volumes can be.

    That is: prices are positive, volumes not negative, and high and low enclose the rest.
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
    raise ValueError(f"candle {candle.timestamp}: its start, prices or volumes cannot be")


def _numbers(candle: HistoricalCandle) -> tuple[Decimal, ...]:
    return candle.open, candle.high, candle.low, candle.close, candle.volume, candle.vwap
