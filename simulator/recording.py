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

    A recorded time is a printed float64; the printed value counts as the exact nanosecond.

    Raises:
        BadRecording: The file cannot be read, is not such a page (the message names the row), or is of a
            pair that is not simulated.
    """
    key, rows = _page(path)
    try:
        symbol = PairMap(pairs_of(books)).find(key).symbol
    except UnknownSymbol as error:
        raise BadRecording(path, f"its pair {key} is not among the symbols") from error
    book = next(book for book in books if book.symbol == symbol)
    trades: list[TapeTrade] = []
    for number, row in enumerate(rows):
        try:
            trade = _trade(book, row)
        except (ValueError, TypeError, ArithmeticError, KeyError, AttributeError) as error:
            raise BadRecording(path, f"expected a trade with an id in row {number} ({error})") from error
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
        raise BadRecording(path, "expected an answer of REST Trades, got no result object")
    keys = [key for key in result if key != "last"]  # the key is Kraken's, not the spelling of the request
    if len(keys) != 1 or not isinstance(result[keys[0]], list):
        raise BadRecording(path, "expected the trades of exactly one pair in the result")
    if not result[keys[0]]:
        raise BadRecording(path, "expected trades in the result, got none")
    return keys[0], result[keys[0]]


def _trade(book: Book, row: Any) -> TapeTrade:
    if not isinstance(row, list) or len(row) < 7:
        raise ValueError("expected seven fields or more, got fewer; pages from before 2023 have no trade id")
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
        raise ValueError("price, volume and time must be positive, and the id not negative")
    return trade
