"""Kraken's WebSocket v2, without I/O: frames in, records out; requests out as bytes.

Sources: Kraken's documentation of WebSocket v2 (channels ``trade``, ``ohlc``, ``status``, ``heartbeat``;
methods ``subscribe``, ``ping``) and recorded frames of 2026. Fields and channels that are not named here are
tolerated, because live frames carry undocumented ones.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from kraken_history.errors import MalformedMessage
from kraken_history.kraken.numbers import check_candle, check_symbol, check_trade
from kraken_history.records import (
    EXACT,
    AwareDatetime,
    Count,
    HistoricalCandle,
    HistoricalTrade,
    Side,
    TradeId,
    floor_minute,
)

Channel = Literal["trade", "ohlc"]

OHLC_INTERVALS = (1, 5, 15, 30, 60, 240, 1440, 10080, 21600)
"""Minutes that ``ohlc`` accepts; 10 and 720 are refused. Source: Kraken's documentation."""


class Trades(Struct, frozen=True):
    """A ``trade`` frame.

    Attributes:
        is_snapshot: The latest 50 trades, sent once after a subscribe; an update otherwise.
    """

    trades: Sequence[HistoricalTrade]
    is_snapshot: bool


class Candles(Struct, frozen=True):
    """An ``ohlc`` frame: running candles, each whole; none says that it is closed."""

    candles: Sequence[HistoricalCandle]
    is_snapshot: bool


class Status(Struct, frozen=True):
    """The matching engine's state; only ``online`` matches orders."""

    system: str
    version: str


class Instruments(Struct, frozen=True):
    """The snapshot of ``instrument``: every symbol that this WebSocket knows, in its own letters."""

    symbols: Sequence[str]


class Subscribed(Struct, frozen=True):
    """One symbol of one channel was accepted; Kraken acknowledges each alone."""

    channel: str
    symbol: str
    warnings: Sequence[str]


class Refused(Struct, frozen=True):
    """A request was refused; the socket stays open. ``symbol`` is empty where Kraken did not name one."""

    error: str
    symbol: str
    method: str
    req_id: int | None


class Heartbeat(Struct, frozen=True):
    """About once a second while nothing else is sent, once any channel is subscribed. Has no clock."""


class Pong(Struct, frozen=True):
    """The answer to a ping."""


class Ignored(Struct, frozen=True):
    """A frame that is well formed and not for us, such as ``ticker``."""

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


class _TradeRow(Struct):
    symbol: str
    side: Side
    price: Decimal
    qty: Decimal
    ord_type: str
    trade_id: TradeId
    timestamp: str  # not datetime: msgspec rounds past the sixth digit, which could move a trade to the next minute


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
_ohlc_rows = msgspec.json.Decoder(list[_OhlcRow])
_status_rows = msgspec.json.Decoder(list[_StatusRow])
_instrument_data = msgspec.json.Decoder(_InstrumentData)
_ack_result = msgspec.json.Decoder(_AckResult)


def decode_frame(frame: bytes | str) -> Frame:
    """Decode one frame of WebSocket v2.

    Raises:
        MalformedMessage: It is not JSON, a field of a channel that we read is missing or has the wrong
            type, or a number or symbol is not one; carries the frame.
    """
    try:
        return _decode(_envelope.decode(frame))
    except (msgspec.MsgspecError, ValueError, OverflowError, ArithmeticError, RecursionError) as error:
        payload = frame.encode(errors="surrogatepass") if isinstance(frame, str) else bytes(frame)
        raise MalformedMessage(str(error) or type(error).__name__, payload) from error


def trade_from_dict(symbol: str, row: Mapping[str, Any]) -> HistoricalTrade:
    """The trade of one row of a ``trade`` frame that somebody else has decoded.

    Numbers may be strings, Decimals, ints or floats; of a float, the shortest decimal that means it is taken.

    Raises:
        MalformedMessage: A field is missing or wrong; carries the row as JSON. A row without ``trade_id``
            cannot be stored once and only once, so it is refused too.
    """
    return _from_row("trade", symbol, row).trades[0]  # type: ignore[union-attr]


def candle_from_dict(symbol: str, row: Mapping[str, Any]) -> HistoricalCandle:
    """The candle of one row of an ``ohlc`` frame; as :func:`trade_from_dict`."""
    return _from_row("ohlc", symbol, row).candles[0]  # type: ignore[union-attr]


_DEFAULTS: dict[str, dict[str, object]] = {"trade": {"ord_type": ""}, "ohlc": {"interval": 1}}


# Through JSON, so that there is one decoder with one set of checks.
def _from_row(channel: str, symbol: str, row: Mapping[str, Any]) -> Frame:
    fields = {**_DEFAULTS[channel], **row, "symbol": symbol}
    try:
        data = msgspec.json.encode([fields], enc_hook=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"not a row of {channel}: {error}", repr(row).encode()) from error
    return decode_frame(b'{"channel":"%b","type":"update","data":%b}' % (channel.encode(), data))


def _decode(envelope: _Envelope) -> Frame:
    if envelope.method or envelope.rate_error is not UNSET or envelope.error:
        return _decode_answer(envelope)
    match envelope.channel:
        case "trade":
            return Trades(_decode_trades(envelope.data), envelope.type == "snapshot")
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
            raise ValueError("the frame has neither a channel nor a method")
        case other:
            return Ignored(other)


def _decode_answer(envelope: _Envelope) -> Frame:
    if envelope.rate_error is not UNSET:  # {"Error":"Exceeded msg rate"}, seen by other clients
        return Refused(envelope.rate_error, "", "", None)
    if envelope.error or envelope.success is False:
        return Refused(envelope.error or "no reason given", envelope.symbol, envelope.method, envelope.req_id)
    if envelope.method == "pong":
        return Pong()
    if envelope.method == "subscribe":
        result = _ack_result.decode(envelope.result)
        return Subscribed(result.channel, result.symbol, result.warnings)
    return Ignored(envelope.method)


def _decode_trades(data: msgspec.Raw) -> list[HistoricalTrade]:
    trades = [
        HistoricalTrade(
            row.trade_id, row.symbol, _cut_to_microseconds(row.timestamp), row.price, row.qty, row.side, row.ord_type
        )
        for row in _trade_rows.decode(data)
    ]
    for trade in trades:
        check_trade(trade)
    for symbol in {trade.symbol for trade in trades}:
        check_symbol(symbol)
    return trades


def _decode_candles(data: msgspec.Raw) -> list[HistoricalCandle]:
    candles = [_candle(row) for row in _ohlc_rows.decode(data)]
    for candle in candles:
        check_symbol(candle.symbol)
        check_candle(candle)
    return candles


def _candle(row: _OhlcRow) -> HistoricalCandle:
    # The row's own `timestamp` is deprecated, and live it is the candle's end. interval_begin is the start.
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
    moment = datetime.fromisoformat(text)  # cuts what is past the sixth fractional digit
    if moment.tzinfo is None:
        raise ValueError(f"the timestamp {text!r} has no time zone")
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def encode_subscribe(channel: Channel, symbols: Sequence[str], *, req_id: int) -> bytes:
    """One subscribe for all symbols of a channel. Says ``snapshot`` itself: the documented defaults disagree."""
    params: dict[str, object] = {"channel": channel, "symbol": list(symbols), "snapshot": True}
    if channel == "ohlc":
        params["interval"] = 1
    return msgspec.json.encode({"method": "subscribe", "params": params, "req_id": req_id})


def encode_instruments(*, req_id: int) -> bytes:
    """A subscribe for one list of all symbols, xStocks included, which Kraken leaves out unless asked for them."""
    params = {"channel": "instrument", "snapshot": True, "include_tokenized_assets": True}
    return msgspec.json.encode({"method": "subscribe", "params": params, "req_id": req_id})


def encode_no_instruments(*, req_id: int) -> bytes:
    """The end of that subscription: the updates after the list are not used."""
    return msgspec.json.encode({"method": "unsubscribe", "params": {"channel": "instrument"}, "req_id": req_id})


def encode_ping(*, req_id: int) -> bytes:
    """A ping; any request also counts against Kraken's one minute of inactivity."""
    return msgspec.json.encode({"method": "ping", "req_id": req_id})
