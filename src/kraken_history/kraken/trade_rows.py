"""The rows of a page of REST Trades: valid trades, refused ones, and rows without an id. No I/O."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Struct

from kraken_history.kraken.numbers import MOST_REFUSED_ALONE, canonical_of, checked_trade, is_possible_time
from kraken_history.records import HistoricalTrade, RefusedTrade, Side, UnreadableRow, utc_from_unix_ns

# A row's time is a printed float64, up to a quarter of a microsecond off the nanoseconds of ``since``.
_PRINT_NS = 500
_FAR_OFF_S = Decimal(10**12)
_SIDES: dict[str, Side] = {"b": "buy", "s": "sell"}
_ORDER_TYPES = {"m": "market", "l": "limit"}

_INVALID_ROW = (ValueError, ArithmeticError, TypeError, LookupError)


class TradeRows(Struct, frozen=True):
    """The rows of a page.

    Attributes:
        refused: Trades with a value that is not valid, and an id that can be read.
        unidentified: Number of rows without an id that can be read.
        unidentified_again: The number of these rows at the cursor itself.
        unreadable: Those of the rows without an id that have a form which Kraken never used.
        newest: The newest time of all rows, or the cursor, in nanoseconds.
    """

    trades: Sequence[HistoricalTrade]
    refused: Sequence[RefusedTrade]
    unidentified: int
    unidentified_again: int
    unreadable: Sequence[UnreadableRow]
    newest: int


def read_rows(rows: Sequence[Any], symbol: str, since: int) -> TradeRows:
    """Sort the rows of a page that was requested from ``since`` (nanoseconds) on.

    Raises:
        ValueError, ArithmeticError, TypeError, LookupError: None of the rows is a trade.
    """
    trades: list[HistoricalTrade] = []
    others: list[tuple[Any, Exception | None]] = []
    newest = since
    for row in rows:
        try:
            if len(row) > 6 and row[6]:
                nanoseconds = _nanoseconds(row[2])
                trades.append(_trade(row, symbol, nanoseconds))
                if nanoseconds > newest:
                    newest = nanoseconds
            else:
                others.append((row, None if _is_without_id(row) else ValueError(f"expected a trade, got {row!s:.60}")))
        except _INVALID_ROW as error:
            others.append((row, error))
    refused, nameless, again = _set_apart(others, symbol, since)
    problem = next((error for _, error in others if error is not None), None)
    if problem is not None and not trades and (not refused or len(refused) > MOST_REFUSED_ALONE):
        raise problem
    newest = max([newest, *(moment for row, _ in others if (moment := _time_of(row)) is not None)])
    return TradeRows(trades, refused, len(nameless), again, _unreadable(nameless, symbol), newest)


_Row = tuple[Any, Exception | None]


def _set_apart(rows: Sequence[_Row], symbol: str, since: int) -> tuple[list[RefusedTrade], list[_Row], int]:
    """The refused trades of rows that are not valid, the rows without an id, and the number of those at ``since``."""
    refused: list[RefusedTrade] = []
    nameless: list[_Row] = []
    again = 0
    for row, error in rows:
        known = None if error is None else _refused(row, symbol, str(error) or type(error).__name__)
        if known is not None:
            refused.append(known)
            continue
        moment = _time_of(row)
        nameless.append((row, error))
        again += moment is not None and moment - since < _PRINT_NS
    return refused, nameless, again


def _unreadable(nameless: Sequence[_Row], symbol: str) -> list[UnreadableRow]:
    found = []
    for row, error in nameless:
        if error is not None or (len(row) > 6 and row[6] != 0):
            reason = f"expected a trade id, got {row[6]!r:.60}" if error is None else str(error) or type(error).__name__
            found.append(UnreadableRow(symbol, reason, _text_of(row)))
    return found


def _text_of(row: Any) -> str:
    return msgspec.json.encode(row).decode(errors="replace")


def _is_without_id(row: list[Any]) -> bool:
    """True for a row without an id, as Kraken sent them until 2022, or with id 0."""
    return len(row) == 6 or (len(row) > 6 and not row[6])


def _time_of(row: Any) -> int | None:
    """The time of a row in nanoseconds; None if it cannot be read, or no trade can have been made then."""
    try:
        nanoseconds = _nanoseconds(row[2])
        return nanoseconds if is_possible_time(utc_from_unix_ns(nanoseconds)) else None
    except _INVALID_ROW:
        return None


def _trade(row: list[Any], symbol: str, nanoseconds: int) -> HistoricalTrade:
    price, volume, _, side, order_type, misc, trade_id = row[:7]
    if not _is_trade_id(trade_id) or not isinstance(misc, str):
        raise ValueError(f"expected a trade id and text flags, got {trade_id!r} and {misc!r}")
    if side not in _SIDES:
        raise ValueError(f"invalid trade {trade_id}: expected the side b or s, got {side!r:.60}")
    return checked_trade(
        HistoricalTrade(
            trade_id,
            symbol,
            utc_from_unix_ns(nanoseconds),
            canonical_of(price),
            canonical_of(volume),
            _SIDES[side],
            _ORDER_TYPES.get(order_type, str(order_type)),
            misc,
        )
    )


def _is_trade_id(trade_id: object) -> bool:
    return type(trade_id) is int and 0 < trade_id < 2**63 - 1


def _refused(row: Any, symbol: str, reason: str) -> RefusedTrade | None:
    """The trade of a row that is not valid; None if its id cannot be read."""
    if not isinstance(row, list) or len(row) < 7 or not _is_trade_id(row[6]):
        return None
    nanoseconds = _time_of(row)
    moment = None if nanoseconds is None else utc_from_unix_ns(nanoseconds)
    return RefusedTrade(row[6], symbol, moment, reason, _text_of(row))


def _nanoseconds(seconds: Decimal | int) -> int:
    """Converts a unix time in seconds to whole nanoseconds."""
    if not -_FAR_OFF_S < seconds < _FAR_OFF_S:  # 1e999000 would be a number of a million digits
        raise ValueError(f"expected a unix time in seconds, got {seconds!s:.60}")
    return int(Decimal(seconds).scaleb(9))
