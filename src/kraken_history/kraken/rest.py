"""Decodes Kraken's public REST answers, without I/O: bodies in, records out, errors classified.

Kraken answers HTTP 200 with ``{"error": [...], "result": ...}`` for nearly everything, throttling included.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from kraken_history.errors import KrakenBusy, KrakenError, KrakenHttpError, KrakenRefused, MalformedMessage
from kraken_history.kraken.numbers import canonical_of, checked_candle
from kraken_history.kraken.trade_rows import read_rows
from kraken_history.records import (
    EXACT,
    HistoricalCandle,
    HistoricalTrade,
    RefusedTrade,
    UnreadableRow,
    utc_from_unix_ns,
)
from kraken_history.symbols import CURRENCY, Pair, symbol_from_wsname

TRADES_PAGE = 1000
"""Maximum number of rows in one Trades answer."""

_RETRY = (
    "EGeneral:Too many requests",
    "EAPI:Rate limit exceeded",
    "EGeneral:Internal error",
    "EGeneral:Temporary lockout",
    "EService:",
)
_TOO_OFTEN = (
    "EGeneral:Too many requests",
    "EAPI:Rate limit exceeded",
    "EService:Throttled",
    "EGeneral:Temporary lockout",
)
LOCKOUT_S = 900.0
"""Approximate length in seconds of ``EGeneral:Temporary lockout``, for all calls from an address.

Source: Kraken's support.
"""

_LONGEST_PAUSE_S = 3600.0  # longest pause accepted from an answer
_NS = 1_000_000_000
_LITTLE_NS = 1000


class TradesPage(Struct, frozen=True):
    """One answer of Trades.

    Attributes:
        trades: In Kraken's order. One or more of them repeat the page before, because ``since`` is inclusive.
        last: Cursor of the next page, in nanoseconds.
        unidentified: Rows without a trade id (six fields, as before 2022), with id 0, or with an id that cannot be
            read. They cannot be stored exactly once and are left out of ``trades``.
        unidentified_again: The number of these rows at ``since`` itself, which the page before had too.
        refused: Trades with a value that is not valid. The other trades of the page are not affected.
        unreadable: Those of the unidentified rows that do not have a form of Kraken's: their id cannot be read.
    """

    trades: Sequence[HistoricalTrade]
    last: int
    unidentified: int = 0
    unidentified_again: int = 0
    refused: Sequence[RefusedTrade] = ()
    unreadable: Sequence[UnreadableRow] = ()

    @property
    def rows(self) -> int:
        """Rows of the answer. Fewer than :data:`TRADES_PAGE` mean that no later trade exists yet."""
        return len(self.trades) + self.unidentified + len(self.refused)


class OhlcPage(Struct, frozen=True):
    """One answer of OHLC, at one minute.

    Attributes:
        candles: The closed candles, oldest first, at most 720. They include empty minutes, with
            ``trade_count`` 0, which prove that nothing was traded.
        running: The candle of the present minute, which Kraken puts last; None if Kraken sent none.
    """

    candles: Sequence[HistoricalCandle]
    running: HistoricalCandle | None = None


class SystemStatus(Struct, frozen=True):
    """The state of Kraken's matching engine.

    Attributes:
        status: ``online``, ``maintenance``, ``cancel_only``, ``post_only``, or a value that Kraken adds later.
    """

    status: str
    timestamp: datetime


class Refusal(Struct, frozen=True):
    """The consequence of a failed call for the next calls.

    Attributes:
        pause_s: Minimum pause in seconds; 0 if the answer names none.
        too_often: True if Kraken refused because of too many calls, not because it has trouble itself.
        whole_address: True if the refusal concerns all calls from this address, not only those for one pair.
    """

    pause_s: float = 0.0
    too_often: bool = False
    whole_address: bool = False


class _Answer(Struct):
    error: list[str] = []
    result: msgspec.Raw = msgspec.Raw()


class _TimeRow(Struct):
    unixtime: int


class _PairRow(Struct):
    altname: str
    wsname: str = ""
    status: str = ""
    aclass_base: str = CURRENCY


_answer = msgspec.json.Decoder(_Answer)
_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_trade_rows = msgspec.json.Decoder(list[tuple[Any, ...]], float_hook=Decimal)  # no digit passes through a float
_any_rows = msgspec.json.Decoder(list[Any], float_hook=Decimal)
_pair_rows = msgspec.json.Decoder(dict[str, _PairRow])
_system_status = msgspec.json.Decoder(SystemStatus)
_time = msgspec.json.Decoder(_TimeRow)


def error_kind(errors: Sequence[str]) -> Literal["retry", "permanent"]:
    """Whether the same request may succeed later. Unknown errors are permanent.

    Source: Kraken's error lists, and answers observed by other clients.
    """
    return "retry" if errors and all(error.startswith(_RETRY) for error in errors) else "permanent"


def error_of(errors: Sequence[str]) -> KrakenError | None:
    """Kraken's error strings as an exception; None if there are only warnings (severity ``W``)."""
    serious = [error for error in errors if not error.startswith("W")]
    if not serious:
        return None
    return KrakenBusy(serious) if error_kind(serious) == "retry" else KrakenRefused(serious)


def refusal_of(errors: Sequence[str], *, status: int, retry_after: str | None, now: datetime) -> Refusal:
    """The refusal that Kraken's error strings, the HTTP status and the ``Retry-After`` header describe.

    ``EService:Throttled: 1762795433`` names the unix second from which Kraken answers calls again.
    """
    pause_s = _retry_after_s(retry_after, now)
    for error in errors:
        if error.startswith("EService:Throttled"):
            pause_s = max(pause_s, _throttled_s(error, now))
        elif error.startswith("EGeneral:Temporary lockout"):
            pause_s = max(pause_s, LOCKOUT_S)
    return Refusal(
        min(pause_s, _LONGEST_PAUSE_S),
        too_often=status == 429 or any(error.startswith(_TOO_OFTEN) for error in errors),
        whole_address=status == 429 or any(error.startswith("EGeneral:Temporary lockout") for error in errors),
    )


def _throttled_s(error: str, now: datetime) -> float:
    words = error.removeprefix("EService:Throttled").replace(":", " ").split()
    if not words or not (words[0].isascii() and words[0].isdigit() and len(words[0]) < 12):
        return 0.0
    return max(int(words[0]) - now.timestamp(), 0.0)


def _retry_after_s(header: str | None, now: datetime) -> float:
    """The header's pause in seconds. The header is a number or a date."""
    if not header:
        return 0.0
    if header.isascii() and header.isdigit():
        return float(header[:9])
    try:
        moment = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return 0.0
    return max((moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds(), 0.0)


def decode_result(status: int, body: bytes) -> msgspec.Raw:
    """The ``result`` of an answer.

    Raises:
        KrakenBusy: Kraken is throttling or unavailable; try again later.
        KrakenHttpError: Likewise, from the proxy before Kraken: an HTML page, a body that is empty or cut, or a status
            other than 200.
        KrakenRefused: Kraken refused the request; repeating it does not help.
        MalformedMessage: HTTP 200 with JSON that does not have the form of Kraken's answers.
    """
    try:
        answer = _answer.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if status != 200 or not _is_whole(body):
            raise KrakenHttpError(status, is_json=False) from error
        raise MalformedMessage(f"invalid answer of Kraken: {error}", body) from error
    failure = error_of(answer.error)
    if failure is not None:
        raise failure
    if status != 200:
        raise KrakenHttpError(status, is_json=True)
    return answer.result


def _is_whole(body: bytes) -> bool:
    """True if the body is a whole JSON document with content: not empty, cut, HTML, or null."""
    try:
        return msgspec.json.decode(body) is not None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    except RecursionError:
        return True


def decode_trades_page(result: msgspec.Raw, symbol: str, *, since: int) -> TradesPage:
    """One page of Trades; ``since`` is the requested cursor, in nanoseconds.

    Kraken spells the pair's key differently from the request, so the only key other than ``last`` is used.

    Raises:
        MalformedMessage: None of the rows is a trade, or there is not exactly one pair.
    """
    try:
        fields = _raw_fields.decode(result)
        last = fields.pop("last", None)
        (rows,) = fields.values()
        return _page(_any_rows.decode(rows), last, symbol, since)
    except (msgspec.MsgspecError, ValueError, ArithmeticError, TypeError, LookupError, RecursionError) as error:
        raise MalformedMessage(f"invalid page of Trades: {error}", bytes(result)) from error


def _page(rows: list[Any], last: msgspec.Raw | None, symbol: str, since: int) -> TradesPage:
    read = read_rows(rows, symbol, since)
    # The newest row's printed time may lie above its true time. A slightly lower cursor skips no trade.
    cursor = max(read.newest - _LITTLE_NS, since) if last is None else int(msgspec.json.decode(last))
    return TradesPage(read.trades, cursor, read.unidentified, read.unidentified_again, read.refused, read.unreadable)


def decode_trade_row(row: bytes, symbol: str) -> HistoricalTrade:
    """One row of a page of Trades.

    Raises:
        MalformedMessage: It is not a valid trade.
    """
    page = decode_trades_page(msgspec.Raw(b'{"row":[%b],"last":"0"}' % row), symbol, since=0)
    for trade in page.trades:
        return trade
    reason = page.refused[0].reason if page.refused else "the row has no trade id"
    raise MalformedMessage(reason, row)


def decode_ohlc_page(result: msgspec.Raw, symbol: str, interval: int = 1) -> OhlcPage:
    """One answer of OHLC at an interval in minutes.

    ``last`` is the start of the newest closed candle; later ones are running.

    Raises:
        MalformedMessage: A row is not a candle, there is not exactly one pair, or ``last`` is missing.
    """
    try:
        fields = _raw_fields.decode(result)
        last = utc_from_unix_ns(int(msgspec.json.decode(fields.pop("last"))) * _NS)
        (rows,) = fields.values()
        candles = [_ohlc_candle(row, symbol, interval) for row in _trade_rows.decode(rows)]
    except (msgspec.MsgspecError, ValueError, ArithmeticError, TypeError, LookupError, RecursionError) as error:
        raise MalformedMessage(f"invalid page of OHLC: {error}", bytes(result)) from error
    closed = [candle for candle in candles if candle.timestamp <= last]
    return OhlcPage(closed, candles[-1] if len(closed) < len(candles) else None)


def _ohlc_candle(row: tuple[Any, ...], symbol: str, interval: int) -> HistoricalCandle:
    begin_s, open_, high, low, close, vwap, volume, count = row[:8]
    if type(begin_s) is not int or type(count) is not int or count < 0:
        raise ValueError(f"expected a start time and a count as integers, got {begin_s!r} and {count!r}")
    average, amount = canonical_of(vwap), canonical_of(volume)
    candle = HistoricalCandle(
        symbol,
        utc_from_unix_ns(begin_s * _NS),
        interval,
        canonical_of(open_),
        canonical_of(high),
        canonical_of(low),
        canonical_of(close),
        amount,
        EXACT.multiply(amount, average),
        count,
        average,
    )
    return checked_candle(candle)


def decode_asset_pairs(result: msgspec.Raw) -> list[Pair]:
    """All pairs of AssetPairs that have a WebSocket name; dark pools have none.

    Raises:
        MalformedMessage: The answer is not a table of pairs.
    """
    try:
        rows = _pair_rows.decode(result)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"invalid answer of AssetPairs: {error}", bytes(result)) from error
    return [
        Pair(symbol_from_wsname(row.wsname), row.altname, key, row.wsname, row.status, row.aclass_base)
        for key, row in rows.items()
        if row.wsname
    ]


def decode_system_status(result: msgspec.Raw) -> SystemStatus:
    """The answer of SystemStatus; unknown fields are ignored.

    Raises:
        MalformedMessage: It is not an answer of SystemStatus.
    """
    try:
        status = _system_status.decode(result)
        if status.timestamp.tzinfo is None:
            raise ValueError("the timestamp has no UTC offset")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"invalid answer of SystemStatus: {error}", bytes(result)) from error
    return status


def decode_time(result: msgspec.Raw) -> datetime:
    """Kraken's clock, to the second, from the answer of Time.

    Raises:
        MalformedMessage: It is not an answer of Time.
    """
    try:
        return utc_from_unix_ns(_time.decode(result).unixtime * _NS)
    except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError) as error:
        raise MalformedMessage(f"invalid answer of Time: {error}", bytes(result)) from error
