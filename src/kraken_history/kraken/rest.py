"""Kraken's public REST answers, without I/O: bodies in, records out, errors sorted.

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
from kraken_history.kraken.numbers import check_candle, check_trade
from kraken_history.records import EXACT, HistoricalCandle, HistoricalTrade, Side, utc_from_unix_ns
from kraken_history.symbols import CURRENCY, Pair, symbol_from_wsname

TRADES_PAGE = 1000
"""Most rows of one Trades answer."""

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
"""How long ``EGeneral:Temporary lockout`` lasts, about, for all calls from an address. Source: Kraken's support."""

_LONGEST_PAUSE_S = 3600.0  # what an answer says is believed up to here
_NS = 1_000_000_000
# A row's time is the print of a float64, up to a quarter of a microsecond off the nanoseconds of ``since``.
_PRINT_NS = 500
_LITTLE_NS = 1000
_SIDES: dict[str, Side] = {"b": "buy", "s": "sell"}
_ORDER_TYPES = {"m": "market", "l": "limit"}


class TradesPage(Struct, frozen=True):
    """One answer of Trades.

    Attributes:
        trades: In Kraken's order. One or more of them repeat the page before, because ``since`` is inclusive.
        last: Cursor of the next page, in nanoseconds.
        unidentified: Rows without a trade id (six fields, as before 2022) or with id 0, which cannot be
            stored once and only once and are left out of ``trades``.
        unidentified_again: Those of them that are at ``since`` itself, so that the page before had them too.
    """

    trades: Sequence[HistoricalTrade]
    last: int
    unidentified: int = 0
    unidentified_again: int = 0

    @property
    def rows(self) -> int:
        """Rows of the answer; fewer than :data:`TRADES_PAGE` mean that there is nothing after them yet."""
        return len(self.trades) + self.unidentified


class OhlcPage(Struct, frozen=True):
    """One answer of OHLC, at one minute.

    Attributes:
        candles: Those that are closed, oldest first, as many as 720. Empty minutes are among them, with
            ``trade_count`` 0: they prove that nothing was traded.
        running: The candle of the present minute, which Kraken puts last; None where it sent none.
    """

    candles: Sequence[HistoricalCandle]
    running: HistoricalCandle | None = None


class SystemStatus(Struct, frozen=True):
    """Whether Kraken trades.

    Attributes:
        status: ``online``, ``maintenance``, ``cancel_only``, ``post_only``, or what Kraken comes up with.
    """

    status: str
    timestamp: datetime


class Refusal(Struct, frozen=True):
    """What a call that was not answered means for those to come.

    Attributes:
        pause_s: How long to be silent at least; 0 where the answer says nothing of it.
        too_often: Calls were too many, rather than Kraken in trouble.
        whole_address: All calls from this address are meant, not those for one pair.
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
_pair_rows = msgspec.json.Decoder(dict[str, _PairRow])
_system_status = msgspec.json.Decoder(SystemStatus)
_time = msgspec.json.Decoder(_TimeRow)


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


def refusal_of(errors: Sequence[str], *, status: int, retry_after: str | None, now: datetime) -> Refusal:
    """What Kraken's error strings, the HTTP status and the ``Retry-After`` header say about the next calls.

    ``EService:Throttled: 1762795433`` names the unix second from which on calls are answered again.
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
    """Seconds, as a number or until a date."""
    if not header:
        return 0.0
    if header.isascii() and header.isdigit():
        return float(header[:9])
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max((moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds(), 0.0)


def decode_result(status: int, body: bytes) -> msgspec.Raw:
    """The ``result`` of an answer.

    Raises:
        KrakenBusy: Throttled or unavailable; try later.
        KrakenHttpError: Likewise, from the proxy in front: an HTML page, or a status that is not 200.
        KrakenRefused: Kraken will not answer this request.
        MalformedMessage: HTTP 200 with something that is no answer of Kraken's.
    """
    try:
        answer = _answer.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if status != 200 or body.lstrip()[:1] == b"<":
            raise KrakenHttpError(status, is_json=False) from error
        raise MalformedMessage(f"no answer of Kraken's: {error}", body) from error
    failure = error_of(answer.error)
    if failure is not None:
        raise failure
    if status != 200:
        raise KrakenHttpError(status, is_json=True)
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
    except (msgspec.MsgspecError, ValueError, ArithmeticError, TypeError, LookupError, RecursionError) as error:
        raise MalformedMessage(f"not a page of Trades: {error}", bytes(result)) from error


def _page(rows: list[tuple[Any, ...]], last: msgspec.Raw | None, symbol: str, since: int) -> TradesPage:
    trades, newest, unidentified, again = [], since, 0, 0
    for row in rows:
        nanoseconds = _nanoseconds(row[2])
        newest = max(newest, nanoseconds)
        if len(row) < 7 or not row[6]:
            unidentified += 1
            again += nanoseconds - since < _PRINT_NS
            continue
        trades.append(_trade(row, symbol, utc_from_unix_ns(nanoseconds)))
    # The newest row's print may lie above its true time: a little less, so that nothing is stepped over.
    cursor = max(newest - _LITTLE_NS, since) if last is None else int(msgspec.json.decode(last))
    return TradesPage(trades, cursor, unidentified, again)


def _trade(row: tuple[Any, ...], symbol: str, timestamp: datetime) -> HistoricalTrade:
    price, volume, _, side, order_type, misc, trade_id = row[:7]
    if type(trade_id) is not int or not 0 < trade_id < 2**63 - 1 or not isinstance(misc, str):
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


def decode_ohlc_page(result: msgspec.Raw, symbol: str) -> OhlcPage:
    """One answer of OHLC at one minute. ``last`` is the start of the newest closed candle; later ones still run.

    Raises:
        MalformedMessage: A row is not a candle, there is not exactly one pair, or ``last`` is missing.
    """
    try:
        fields = _raw_fields.decode(result)
        last = utc_from_unix_ns(int(msgspec.json.decode(fields.pop("last"))) * _NS)
        (rows,) = fields.values()
        candles = [_ohlc_candle(row, symbol) for row in _trade_rows.decode(rows)]
    except (msgspec.MsgspecError, ValueError, ArithmeticError, TypeError, LookupError, RecursionError) as error:
        raise MalformedMessage(f"not a page of OHLC: {error}", bytes(result)) from error
    closed = [candle for candle in candles if candle.timestamp <= last]
    return OhlcPage(closed, candles[-1] if len(closed) < len(candles) else None)


def _ohlc_candle(row: tuple[Any, ...], symbol: str) -> HistoricalCandle:
    begin_s, open_, high, low, close, vwap, volume, count = row[:8]
    if type(begin_s) is not int or type(count) is not int or count < 0:
        raise ValueError(f"{begin_s!r} is not the start of a candle, or {count!r} no count")
    average, amount = Decimal(vwap), Decimal(volume)
    candle = HistoricalCandle(
        symbol,
        utc_from_unix_ns(begin_s * _NS),
        1,
        Decimal(open_),
        Decimal(high),
        Decimal(low),
        Decimal(close),
        amount,
        EXACT.multiply(amount, average),
        count,
        average,
    )
    check_candle(candle)
    return candle


def decode_asset_pairs(result: msgspec.Raw) -> list[Pair]:
    """All pairs of AssetPairs that have a WebSocket name; dark pools have none.

    Raises:
        MalformedMessage: It is not a table of pairs.
    """
    try:
        rows = _pair_rows.decode(result)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"not AssetPairs: {error}", bytes(result)) from error
    return [
        Pair(symbol_from_wsname(row.wsname), row.altname, key, row.wsname, row.status, row.aclass_base)
        for key, row in rows.items()
        if row.wsname
    ]


def decode_system_status(result: msgspec.Raw) -> SystemStatus:
    """The answer of SystemStatus; fields that it may have besides are passed over.

    Raises:
        MalformedMessage: It is none.
    """
    try:
        status = _system_status.decode(result)
        if status.timestamp.tzinfo is None:
            raise ValueError("its timestamp has no offset")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"not SystemStatus: {error}", bytes(result)) from error
    return status


def decode_time(result: msgspec.Raw) -> datetime:
    """Kraken's clock, to the second, from the answer of Time.

    Raises:
        MalformedMessage: It is none.
    """
    try:
        return utc_from_unix_ns(_time.decode(result).unixtime * _NS)
    except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError) as error:
        raise MalformedMessage(f"not Time: {error}", bytes(result)) from error
