"""Reads a page of Kraken's REST Trades from a file, to be played over the WebSocket."""

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from kraken_history.errors import UnknownSymbol, UsageError
from kraken_history.kraken.pairs import PairMap
from simulator.books import Book, pairs_of
from simulator.notation import VOLUME_DECIMALS, units_of
from simulator.tape import TapeTrade

_SIDES = {"b": True, "s": False}
_ORDER_TYPES = {"m": True, "l": False}


class BadRecording(UsageError):
    """A file that is not a page of REST Trades with trade ids."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot play {path}: {reason}")


def read_recording(path: Path, books: Sequence[Book]) -> list[TapeTrade]:
    """The trades of one recorded page, ``{"error":[],"result":{<pair>:[rows],"last":…}}``, in its order.

    A recorded time is a float64 print; it is taken as the nanosecond that it shows.

    Raises:
        BadRecording: The file cannot be read, is not such a page (the message names the row), or is of a
            pair that is not simulated.
    """
    key, rows = _page(path)
    try:
        symbol = PairMap(pairs_of(books)).find(key).symbol
    except UnknownSymbol as error:
        raise BadRecording(path, f"it is of the pair {key}, which is not among the symbols") from error
    book = next(book for book in books if book.symbol == symbol)
    trades: list[TapeTrade] = []
    for number, row in enumerate(rows):
        try:
            trade = _trade(book, row)
        except (ValueError, TypeError, ArithmeticError, KeyError, AttributeError) as error:
            raise BadRecording(path, f"row {number} is not a trade with an id ({error})") from error
        if trades and (trade.id <= trades[-1].id or trade.time_ns < trades[-1].time_ns):
            raise BadRecording(path, f"row {number} is older than the row before it")
        trades.append(trade)
    return trades


def _page(path: Path) -> tuple[str, list[Any]]:
    try:
        page = json.loads(path.read_bytes(), parse_float=Decimal)
    except OSError as error:
        raise BadRecording(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise BadRecording(path, f"not JSON ({error})") from error
    result = page.get("result") if isinstance(page, dict) else None
    if not isinstance(result, dict):
        raise BadRecording(path, "no result object, so not an answer of REST Trades")
    keys = [key for key in result if key != "last"]  # the key is Kraken's, not the spelling that was asked for
    if len(keys) != 1 or not isinstance(result[keys[0]], list):
        raise BadRecording(path, "the result does not hold the trades of exactly one pair")
    if not result[keys[0]]:
        raise BadRecording(path, "it holds no trades")
    return keys[0], result[keys[0]]


def _trade(book: Book, row: Any) -> TapeTrade:
    if not isinstance(row, list) or len(row) < 7:
        raise ValueError("fewer than seven fields; pages of before 2023 have no trade id")
    price, volume, time, side, order_type, misc, trade_id = row[:7]
    if not isinstance(trade_id, int) or not isinstance(misc, str) or not isinstance(time, (int, Decimal)):
        raise TypeError("a field has the wrong type")
    trade = TapeTrade(
        book.symbol,
        trade_id,
        units_of(Decimal(time), 9),
        units_of(Decimal(price), book.price_decimals),
        units_of(Decimal(volume), VOLUME_DECIMALS),
        _SIDES[side],
        _ORDER_TYPES[order_type],
        misc,
    )
    if min(trade.price, trade.volume, trade.time_ns) <= 0 or trade_id < 0:
        raise ValueError("a number that must be positive is not")
    return trade
