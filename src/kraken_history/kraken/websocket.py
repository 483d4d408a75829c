"""Kraken's WebSocket v2, without I/O: frames in, records out; requests out as bytes.

Sources: Kraken's documentation of WebSocket v2 (channels ``trade``, ``ohlc``, ``status``, ``heartbeat``;
methods ``subscribe``, ``ping``) and recorded frames of 2026. Unknown fields and channels are
tolerated, because live frames contain undocumented ones.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from kraken_history.errors import MalformedMessage
from kraken_history.kraken.numbers import (
    MOST_REFUSED_ALONE,
    check_symbol,
    checked_candle,
    checked_trade,
    is_possible_time,
)
from kraken_history.records import (
    EXACT,
    AwareDatetime,
    Count,
    HistoricalCandle,
    HistoricalTrade,
    RefusedTrade,
    Side,
    TradeId,
    floor_minute,
)

Channel = Literal["trade", "ohlc"]

OHLC_INTERVALS = (1, 5, 15, 30, 60, 240, 1440, 10080, 21600)
"""Intervals in minutes that ``ohlc`` accepts; it refuses 10 and 720. Source: Kraken's documentation."""


class Trades(Struct, frozen=True):
    """A ``trade`` frame.

    Attributes:
        is_snapshot: True for the latest 50 trades, sent once after a subscribe; False for an update.
        refused: Trades with a value that is not valid. The other trades of the frame are not affected.
        unreadable: Rows whose symbol or id cannot be read. The payload of each is a frame of that row alone.
    """

    trades: Sequence[HistoricalTrade]
    is_snapshot: bool
    refused: Sequence[RefusedTrade] = ()
    unreadable: Sequence[MalformedMessage] = ()


class Candles(Struct, frozen=True):
    """An ``ohlc`` frame: running candles, each complete. Kraken never marks one as closed."""

    candles: Sequence[HistoricalCandle]
    is_snapshot: bool


class Status(Struct, frozen=True):
    """The matching engine's state; only ``online`` matches orders."""

    system: str
    version: str


class Instruments(Struct, frozen=True):
    """The snapshot of ``instrument``: every symbol that Kraken's WebSocket knows, in Kraken's spelling."""

    symbols: Sequence[str]


class Subscribed(Struct, frozen=True):
    """Kraken accepted one symbol of one channel; it acknowledges each symbol separately.

    Attributes:
        time: Kraken's time; None if the frame has none.
    """

    channel: str
    symbol: str
    warnings: Sequence[str]
    time: datetime | None = None


class Refused(Struct, frozen=True):
    """Kraken refused a request; the socket stays open. ``symbol`` is empty if Kraken did not name one."""

    error: str
    symbol: str
    method: str
    req_id: int | None


class Heartbeat(Struct, frozen=True):
    """Sent about once per second if nothing else is sent and a channel is subscribed. Contains no time."""


class Pong(Struct, frozen=True):
    """The answer to a ping.

    Attributes:
        time: Kraken's time; None if the frame has none.
    """

    time: datetime | None = None


class Ignored(Struct, frozen=True):
    """A well-formed frame of a channel that is not used here, such as ``ticker``."""

    channel: str


Frame = Trades | Candles | Status | Instruments | Subscribed | Refused | Heartbeat | Pong | Ignored


class _Envelope(Struct):
    channel: str = ""
    type: str = ""
    method: str = ""
    success: bool | None = None
    error: str = ""
    rate_error: str | UnsetType = msgspec.field(name="Error", default=UNSET)
    symbol: str = ""
    req_id: int | None = None
    data: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    time_out: Any = None


class _TradeRow(Struct):
    symbol: str
    side: Side
    price: Decimal
    qty: Decimal
    ord_type: str
    trade_id: TradeId
    timestamp: str  # not datetime: msgspec rounds past the sixth digit, which could move a trade to the next minute


class _AnyTradeRow(Struct):
    symbol: Any = None
    trade_id: Any = None
    timestamp: Any = None


class _OhlcRow(Struct):
    symbol: str
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    trades: Count
    volume: Decimal
    vwap: Decimal
    interval_begin: AwareDatetime
    interval: Annotated[int, Meta(ge=1, le=21600)]


class _StatusRow(Struct):
    system: str
    version: str = ""


class _InstrumentPair(Struct):
    symbol: str


class _InstrumentData(Struct):
    pairs: list[_InstrumentPair]


class _AckResult(Struct):
    channel: str = ""
    symbol: str = ""
    warnings: list[str] = []


_envelope = msgspec.json.Decoder(_Envelope)
_trade_rows = msgspec.json.Decoder(list[_TradeRow])
_raw_rows = msgspec.json.Decoder(list[msgspec.Raw])
_any_trade_row = msgspec.json.Decoder(_AnyTradeRow)
_ohlc_rows = msgspec.json.Decoder(list[_OhlcRow])
_status_rows = msgspec.json.Decoder(list[_StatusRow])
_instrument_data = msgspec.json.Decoder(_InstrumentData)
_ack_result = msgspec.json.Decoder(_AckResult)

_INVALID = (msgspec.MsgspecError, ValueError, OverflowError, ArithmeticError, RecursionError)


def decode_frame(frame: bytes | str) -> Frame:
    """Decode one frame of WebSocket v2.

    Raises:
        MalformedMessage: The frame is not JSON, a field of a used channel is missing or has the wrong type, or a number
            or symbol is invalid. The error carries the frame. A frame of trades is malformed only if none of its rows
            can be read.
    """
    try:
        return _decode(_envelope.decode(frame))
    except _INVALID as error:
        payload = frame.encode(errors="surrogatepass") if isinstance(frame, str) else bytes(frame)
        raise MalformedMessage(str(error) or type(error).__name__, payload) from error


def trade_from_dict(symbol: str, row: Mapping[str, Any]) -> HistoricalTrade:
    """The trade of one row of a ``trade`` frame that another program has decoded.

    Numbers may be strings, Decimals, ints or floats. A float is converted to its shortest decimal form.

    Raises:
        MalformedMessage: A field is missing or wrong; the error carries the row as JSON. A row without
            ``trade_id`` is refused too, because it cannot be stored exactly once.
    """
    frame = trades_from_dict(symbol, row)
    for refused in frame.refused:
        raise MalformedMessage(refused.reason, refused.row.encode())
    return frame.trades[0]


def trades_from_dict(symbol: str, row: Mapping[str, Any]) -> Trades:
    """As :func:`trade_from_dict`, in a frame, which refuses the trade if its id can be read.

    Raises:
        MalformedMessage: The id or the symbol cannot be read.
    """
    frame = _from_row("trade", symbol, row)
    assert isinstance(frame, Trades)
    return frame


def candle_from_dict(symbol: str, row: Mapping[str, Any]) -> HistoricalCandle:
    """The candle of one row of an ``ohlc`` frame; as :func:`trade_from_dict`."""
    return _from_row("ohlc", symbol, row).candles[0]  # type: ignore[union-attr]


_DEFAULTS: dict[str, dict[str, object]] = {"trade": {"ord_type": ""}, "ohlc": {"interval": 1}}


# Converts through JSON, so that one decoder makes all checks.
def _from_row(channel: str, symbol: str, row: Mapping[str, Any]) -> Frame:
    fields = {**_DEFAULTS[channel], **row, "symbol": symbol}
    try:
        data = msgspec.json.encode([fields], enc_hook=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"invalid row of {channel}: {error}", repr(row).encode()) from error
    return decode_frame(b'{"channel":"%b","type":"update","data":%b}' % (channel.encode(), data))


def _decode(envelope: _Envelope) -> Frame:
    if envelope.method or envelope.rate_error is not UNSET or envelope.error:
        return _decode_answer(envelope)
    match envelope.channel:
        case "trade":
            return _decode_trades(envelope.data, is_snapshot=envelope.type == "snapshot")
        case "ohlc":
            return Candles(_decode_candles(envelope.data), envelope.type == "snapshot")
        case "heartbeat":
            return Heartbeat()
        case "status":
            rows = _status_rows.decode(envelope.data)
            return Status(rows[-1].system, rows[-1].version) if rows else Ignored("status")
        case "instrument" if envelope.type == "snapshot":
            return Instruments([pair.symbol for pair in _instrument_data.decode(envelope.data).pairs])
        case "":
            raise ValueError("expected a frame with a channel or a method, got neither")
        case other:
            return Ignored(other)


def _decode_answer(envelope: _Envelope) -> Frame:
    if envelope.rate_error is not UNSET:  # {"Error":"Exceeded msg rate"}, observed by other clients
        return Refused(envelope.rate_error, "", "", None)
    if envelope.error or envelope.success is False:
        return Refused(envelope.error or "no reason given", envelope.symbol, envelope.method, envelope.req_id)
    if envelope.method == "pong":
        return Pong(_time_of(envelope))
    if envelope.method == "subscribe":
        result = _ack_result.decode(envelope.result)
        return Subscribed(result.channel, result.symbol, result.warnings, _time_of(envelope))
    return Ignored(envelope.method)


def _time_of(answer: _Envelope) -> datetime | None:
    """When Kraken sent an answer; None if it does not say. Nothing but the comparison of clocks depends on it."""
    try:
        return _cut_to_microseconds(answer.time_out)
    except (*_INVALID, TypeError):
        return None


def frame_of_row(row: str) -> bytes:
    """A frame with one row of trades, which is JSON."""
    return b'{"channel":"trade","type":"update","data":[%b]}' % row.encode(errors="replace")


def _decode_trades(data: msgspec.Raw, *, is_snapshot: bool) -> Trades:
    try:
        return Trades(_trades_of(data), is_snapshot)
    except _INVALID as error:
        return _row_by_row(_raw_rows.decode(data), is_snapshot=is_snapshot, error=error)


def _row_by_row(rows: Sequence[msgspec.Raw], *, is_snapshot: bool, error: Exception) -> Trades:
    """The good rows of a frame, and the others one by one; ``error`` is raised if none of the rows can be read."""
    trades: list[HistoricalTrade] = []
    refused: list[RefusedTrade] = []
    unreadable: list[MalformedMessage] = []
    for row in rows:
        try:
            trades += _trades_of(b"[%b]" % row)
        except _INVALID as problem:
            reason, text = str(problem) or type(problem).__name__, bytes(row).decode(errors="replace")
            known = _refused(row, reason, text)
            if known is None:
                unreadable.append(MalformedMessage(reason, frame_of_row(text)))
            else:
                refused.append(known)
    if not trades and (not refused or len(refused) > MOST_REFUSED_ALONE):
        raise error
    return Trades(trades, is_snapshot, refused, unreadable)


def _refused(row: msgspec.Raw, reason: str, text: str) -> RefusedTrade | None:
    """The trade of a row that is not valid; None if its symbol or its id cannot be read."""
    try:
        fields = _any_trade_row.decode(row)
        check_symbol(fields.symbol)
        trade_id = msgspec.convert(fields.trade_id, TradeId)
    except (*_INVALID, TypeError):
        return None
    try:
        moment = _cut_to_microseconds(fields.timestamp)
    except (*_INVALID, TypeError):
        moment = None
    return RefusedTrade(
        trade_id, fields.symbol, moment if moment is not None and is_possible_time(moment) else None, reason, text
    )


def _trades_of(data: msgspec.Raw | bytes) -> list[HistoricalTrade]:
    trades = [
        checked_trade(
            HistoricalTrade(
                row.trade_id,
                row.symbol,
                _cut_to_microseconds(row.timestamp),
                row.price,
                row.qty,
                row.side,
                row.ord_type,
            )
        )
        for row in _trade_rows.decode(data)
    ]
    for symbol in {trade.symbol for trade in trades}:
        check_symbol(symbol)
    return trades


def _decode_candles(data: msgspec.Raw) -> list[HistoricalCandle]:
    candles = [checked_candle(_candle(row)) for row in _ohlc_rows.decode(data)]
    for symbol in {candle.symbol for candle in candles}:
        check_symbol(symbol)
    return candles


def _candle(row: _OhlcRow) -> HistoricalCandle:
    # interval_begin is the candle's start. `timestamp` is deprecated, and in live frames it is the candle's end.
    return HistoricalCandle(
        row.symbol,
        floor_minute(row.interval_begin.astimezone(UTC)),
        row.interval,
        row.open,
        row.high,
        row.low,
        row.close,
        row.volume,
        EXACT.multiply(row.volume, row.vwap),
        row.trades,
        row.vwap,
    )


def _cut_to_microseconds(text: str) -> datetime:
    moment = datetime.fromisoformat(text)  # truncates after the sixth fractional digit
    if moment.tzinfo is None:
        raise ValueError(f"expected a timestamp with a time zone, got {text!r}")
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def encode_subscribe(channel: Channel, symbols: Sequence[str], *, req_id: int) -> bytes:
    """One subscribe for all symbols of a channel. Sets ``snapshot``, because the documented defaults disagree."""
    params: dict[str, object] = {"channel": channel, "symbol": list(symbols), "snapshot": True}
    if channel == "ohlc":
        params["interval"] = 1
    return msgspec.json.encode({"method": "subscribe", "params": params, "req_id": req_id})


def encode_instruments(*, req_id: int) -> bytes:
    """A subscribe for the list of all symbols. Requests xStocks too, which Kraken leaves out by default."""
    params = {"channel": "instrument", "snapshot": True, "include_tokenized_assets": True}
    return msgspec.json.encode({"method": "subscribe", "params": params, "req_id": req_id})


def encode_no_instruments(*, req_id: int) -> bytes:
    """An unsubscribe from ``instrument``: only the snapshot is used, not the updates after it."""
    return msgspec.json.encode({"method": "unsubscribe", "params": {"channel": "instrument"}, "req_id": req_id})


def encode_ping(*, req_id: int) -> bytes:
    """A ping; any request also counts against Kraken's one minute of inactivity."""
    return msgspec.json.encode({"method": "ping", "req_id": req_id})
