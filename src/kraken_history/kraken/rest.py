"""Kraken's public REST answers, without I/O: bodies in, records out, errors sorted.

Kraken answers HTTP 200 with ``{"error": [...], "result": ...}`` for nearly everything, throttling included.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import msgspec
from msgspec import Struct

from kraken_history.errors import KrakenBusy, KrakenError, KrakenRefused, MalformedMessage
from kraken_history.kraken.numbers import check_trade
from kraken_history.records import HistoricalTrade, Side, utc_from_unix_ns
from kraken_history.symbols import Pair, symbol_from_wsname

TRADES_PAGE = 1000
"""Most rows of one Trades answer."""

_RETRY = (
    "EGeneral:Too many requests",
    "EAPI:Rate limit exceeded",
    "EGeneral:Internal error",
    "EGeneral:Temporary lockout",
    "EService:",
)
_SIDES: dict[str, Side] = {"b": "buy", "s": "sell"}
_ORDER_TYPES = {"m": "market", "l": "limit"}


class TradesPage(Struct, frozen=True):
    """One answer of Trades.

    Attributes:
        trades: In Kraken's order. One or more of them repeat the page before, because ``since`` is inclusive.
        last: Cursor of the next page, in nanoseconds.
        unidentified: Rows without a trade id (six fields, as before 2022) or with id 0, which cannot be
            stored once and only once and are left out of ``trades``.
    """

    trades: Sequence[HistoricalTrade]
    last: int
    unidentified: int = 0

    @property
    def rows(self) -> int:
        """Rows of the answer; fewer than :data:`TRADES_PAGE` mean that there is nothing after them yet."""
        return len(self.trades) + self.unidentified


class _Answer(Struct):
    error: list[str] = []
    result: msgspec.Raw = msgspec.Raw()


class _PairRow(Struct):
    altname: str
    wsname: str = ""
    status: str = ""


_answer = msgspec.json.Decoder(_Answer)
_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_trade_rows = msgspec.json.Decoder(list[tuple[Any, ...]], float_hook=Decimal)  # no digit passes through a float
_pair_rows = msgspec.json.Decoder(dict[str, _PairRow])


def error_kind(errors: Sequence[str]) -> Literal["retry", "permanent"]:
    """Whether the same request may pass later. What is not known to pass is permanent.

    Source: Kraken's error lists, and answers seen by other clients.
    """
    return "retry" if errors and all(error.startswith(_RETRY) for error in errors) else "permanent"


def error_of(errors: Sequence[str]) -> KrakenError | None:
    """Kraken's error strings as an exception; None if there are only warnings (severity ``W``)."""
    serious = [error for error in errors if not error.startswith("W")]
    if not serious:
        return None
    return KrakenBusy(serious) if error_kind(serious) == "retry" else KrakenRefused(serious)


def decode_result(status: int, body: bytes) -> msgspec.Raw:
    """The ``result`` of an answer.

    Raises:
        KrakenBusy: Throttled, unavailable, or an HTML page of the proxy in front; try later.
        KrakenRefused: Kraken will not answer this request.
        MalformedMessage: HTTP 200 with something that is no answer of Kraken's.
    """
    try:
        answer = _answer.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if status != 200 or body.lstrip()[:1] == b"<":
            raise KrakenBusy([f"HTTP {status} without an answer in JSON"]) from error
        raise MalformedMessage(f"no answer of Kraken's: {error}", body) from error
    failure = error_of(answer.error)
    if failure is not None:
        raise failure
    if status != 200:
        raise KrakenBusy([f"HTTP {status}"])
    return answer.result


def decode_trades_page(result: msgspec.Raw, symbol: str, *, since: int) -> TradesPage:
    """One page of Trades; ``since`` is what was asked for, in nanoseconds.

    The pair's key in the answer is not the requested spelling, so the one key that is not ``last`` is taken.

    Raises:
        MalformedMessage: A row is not a trade, or there is not exactly one pair.
    """
    try:
        fields = _raw_fields.decode(result)
        last = fields.pop("last", None)
        (rows,) = fields.values()
        return _page(_trade_rows.decode(rows), last, symbol, since)
    except (msgspec.MsgspecError, ValueError, ArithmeticError, TypeError, KeyError, OverflowError) as error:
        raise MalformedMessage(f"not a page of Trades: {error}", bytes(result)) from error


def _page(rows: list[tuple[Any, ...]], last: msgspec.Raw | None, symbol: str, since: int) -> TradesPage:
    trades, newest, unidentified = [], since, 0
    for row in rows:
        nanoseconds = _nanoseconds(row[2])
        newest = max(newest, nanoseconds)
        if len(row) < 7 or not row[6]:
            unidentified += 1
            continue
        trades.append(_trade(row, symbol, utc_from_unix_ns(nanoseconds)))
    cursor = newest if last is None else int(msgspec.json.decode(last))
    return TradesPage(trades, cursor, unidentified)


def _trade(row: tuple[Any, ...], symbol: str, timestamp: datetime) -> HistoricalTrade:
    price, volume, _, side, order_type, misc, trade_id = row[:7]
    if not isinstance(trade_id, int) or not 0 < trade_id < 2**63 or not isinstance(misc, str):
        raise ValueError(f"{trade_id!r} is not a trade id, or {misc!r} no flags")
    trade = HistoricalTrade(
        trade_id,
        symbol,
        timestamp,
        Decimal(price),
        Decimal(volume),
        _SIDES[side],
        _ORDER_TYPES.get(order_type, str(order_type)),
        misc,
    )
    check_trade(trade)
    return trade


def _nanoseconds(seconds: Decimal | int) -> int:
    """A unix time in seconds, in whole nanoseconds."""
    return int(Decimal(seconds).scaleb(9))


def decode_asset_pairs(result: msgspec.Raw) -> list[Pair]:
    """All pairs of AssetPairs that have a WebSocket name; dark pools have none.

    Raises:
        MalformedMessage: It is not a table of pairs.
    """
    try:
        rows = _pair_rows.decode(result)
    except msgspec.MsgspecError as error:
        raise MalformedMessage(f"not AssetPairs: {error}", bytes(result)) from error
    return [
        Pair(symbol_from_wsname(row.wsname), row.altname, key, row.wsname, row.status)
        for key, row in rows.items()
        if row.wsname
    ]
