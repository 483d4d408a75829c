"""Validation of symbols, trades and candles before they are stored, and the canonical form of their numbers.

The same number has several Decimals: 1.5 and 1.50, 100 and 1E+2. Every decoder returns the canonical one, so that the
same trade prints the same digits whichever way it came: no zeros after the last digit behind the decimal point, and no
positive exponent.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from msgspec.structs import replace

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

# Years in which a trade can have been made. Kraken opened in 2011; a clock that is not set gives 1970.
_FIRST_YEAR, _LAST_YEAR = 2009, 2099

_MOST_TRADES_A_CANDLE = 2**31 - 1  # the column is an integer of four bytes

MOST_REFUSED_ALONE = 10
"""Maximum number of refused rows in a message without one good row.

If more rows, and only such, are not valid, the format of the message has changed: nothing is concluded from it.
"""


def check_symbol(symbol: str) -> None:
    """Raise ValueError unless this is shaped like ``BTC/USDT``."""
    if not _SYMBOL.fullmatch(symbol):
        raise ValueError(f"expected a symbol such as BTC/USDT, got {symbol!r}")


def canonical(number: Decimal) -> Decimal:
    """The same number without trailing zeros after the decimal point, and without a positive exponent.

    The number must be within the bounds above: 1e999999999 would be written out.
    """
    text = str(number)
    if "E" in text:
        return _without_exponent(number)
    if text[-1] == "0" and "." in text:
        return Decimal(text.rstrip("0").rstrip("."))
    return number


def canonical_of(text: str) -> Decimal:
    """As :func:`canonical`, of a number that is still text. Another value is converted as it is."""
    if type(text) is not str:
        return Decimal(text)
    if text[-1] == "0" and "." in text and "e" not in text and "E" not in text:
        return Decimal(text.rstrip("0").rstrip("."))
    return Decimal(text)


def _without_exponent(number: Decimal) -> Decimal:
    text = f"{number:f}"
    shorter = Decimal(text.rstrip("0").rstrip(".") if "." in text else text)
    # The digits and the exponent decide, not the text: Python writes 0.00000001 as 1E-8.
    return number if number.as_tuple() == shorter.as_tuple() else shorter


def is_possible_time(moment: datetime) -> bool:
    """True for an aware time in which a trade of Kraken's can have been made."""
    return _FIRST_YEAR <= moment.year <= _LAST_YEAR


def checked_trade(trade: HistoricalTrade) -> HistoricalTrade:
    """The trade with canonical numbers.

    Raises:
        ValueError: Price or volume are not positive numbers within the bounds above, or the time is not UTC or
            impossible.
    """
    price, volume = trade.price, trade.volume
    try:
        if (
            _SMALLEST < price < _LARGEST
            and _SMALLEST < volume < _LARGEST
            and len(price_text := str(price)) <= _LONGEST_TRADE_NUMBER
            and len(volume_text := str(volume)) <= _LONGEST_TRADE_NUMBER
            and trade.timestamp.tzinfo is UTC
            and _FIRST_YEAR <= trade.timestamp.year <= _LAST_YEAR
        ):
            if price_text[-1] != "0" != volume_text[-1] and "E" not in price_text and "E" not in volume_text:
                return trade
            return _canonical_trade(trade)
    except InvalidOperation:  # NaN has no order
        pass
    raise ValueError(
        f"invalid trade {trade.id}: expected a positive price and volume, and a time in UTC,"
        f" got {price!s:.60}, {volume!s:.60} and {trade.timestamp}"
    )


def _canonical_trade(trade: HistoricalTrade) -> HistoricalTrade:
    price, volume = canonical(trade.price), canonical(trade.volume)
    if price is trade.price and volume is trade.volume:
        return trade
    return HistoricalTrade(
        trade.id, trade.symbol, trade.timestamp, price, volume, trade.side, trade.order_type, trade.misc
    )


def checked_candle(candle: HistoricalCandle) -> HistoricalCandle:
    """The candle with canonical numbers.

    Prices must be positive, volumes must not be negative, and high and low must enclose open and close.

    Raises:
        ValueError: The candle does not start at a full minute (UTC), or its numbers are not consistent.
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
            return canonical_candle(candle)
    except InvalidOperation:
        pass
    raise ValueError(f"invalid candle {candle.timestamp}: start time, prices or volumes out of range")


def canonical_candle(candle: HistoricalCandle) -> HistoricalCandle:
    """The candle with canonical numbers; its numbers must be within the bounds above."""
    numbers = (*_numbers(candle), candle.quote_volume)
    shorter = tuple(map(canonical, numbers))
    if all(one is other for one, other in zip(numbers, shorter, strict=True)):
        return candle
    open_, high, low, close, volume, vwap, quote_volume = shorter
    return replace(
        candle, open=open_, high=high, low=low, close=close, volume=volume, quote_volume=quote_volume, vwap=vwap
    )


def _numbers(candle: HistoricalCandle) -> tuple[Decimal, ...]:
    return candle.open, candle.high, candle.low, candle.close, candle.volume, candle.vwap
