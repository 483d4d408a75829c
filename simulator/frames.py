"""Frames of WebSocket v2 as Kraken's server writes them, byte for byte where a frame was recorded.

Sources: the recorded frames of 2026 (status, acknowledgements, refusals, ``trade``, ``ohlc``, heartbeat) and
Kraken's documentation of WebSocket v2. Anything that neither shows is marked "not recorded".
"""

import json
from collections.abc import Iterable, Sequence

from simulator.books import Book
from simulator.candle_series import Candle
from simulator.notation import NS, VOLUME_DECIMALS, fixed, microsecond_time, nanosecond_time
from simulator.tape import TapeTrade

HEARTBEAT = b'{"channel":"heartbeat"}'

_OHLC_WARNING = "timestamp is deprecated, use interval_begin"
_TRADES_PER_FRAME = 500


def status(connection_id: int, system: str = "online") -> bytes:
    """The first frame of every connection, and of a change of state; with the undocumented fields of live frames.

    Live ids exceed a signed 64-bit integer.
    """
    row = {
        "version": "2.0.10",
        "system": system,
        "api_version": "v2",
        "connection_id": connection_id,
        "upcoming_maintenance": [],
        "emergency": [],
    }
    return _json({"channel": "status", "type": "update", "data": [row]})


def trade_frames(book: Book, trades: Sequence[TapeTrade], *, is_snapshot: bool = False) -> list[bytes]:
    """``trade`` frames of one symbol, several trades in each; one empty snapshot if there are none."""
    kind = "snapshot" if is_snapshot else "update"
    portions = [trades[at : at + _TRADES_PER_FRAME] for at in range(0, len(trades), _TRADES_PER_FRAME)]
    if is_snapshot and not portions:
        portions = [trades]
    rows = (_joined(_trade_row(book, trade) for trade in portion) for portion in portions)
    return [f'{{"channel":"trade","type":"{kind}","data":[{text}]}}'.encode() for text in rows]


def ohlc_frame(
    book: Book, candles: Sequence[Candle], interval: int, time_ns: int, *, is_snapshot: bool = False
) -> bytes:
    """One ``ohlc`` frame; ``time_ns`` is the message's own timestamp."""
    kind = "snapshot" if is_snapshot else "update"
    rows = _joined(_ohlc_row(book, candle, interval) for candle in candles)
    return f'{{"channel":"ohlc","type":"{kind}","timestamp":"{nanosecond_time(time_ns)}","data":[{rows}]}}'.encode()


def subscribed(
    channel: str, symbol: str, interval: int, *, snapshot: bool, req_id: int | None, times: tuple[int, int]
) -> bytes:
    """The acknowledgement of one symbol; ``times`` are when the request came and when this went."""
    result: dict[str, object] = {"channel": channel}
    if channel == "ohlc":
        result["interval"] = interval
    result |= {"snapshot": snapshot, "symbol": symbol}
    if channel == "ohlc":
        result["warnings"] = [_OHLC_WARNING]
    return _answer({"method": "subscribe", "result": result, "success": True}, req_id, times)


def instruments(books: Iterable[Book]) -> bytes:
    """The snapshot of ``instrument``, with the fields of Kraken's documentation. Not recorded."""
    books = list(books)
    assets = dict.fromkeys(asset for book in books for asset in book.symbol.split("/"))
    data = {
        "assets": [{"id": asset, "status": "enabled"} for asset in assets],
        "pairs": [_instrument(book) for book in books],
    }
    return _json({"channel": "instrument", "type": "snapshot", "data": data})


def _instrument(book: Book) -> dict[str, object]:
    base, quote = book.symbol.split("/")
    return {
        "symbol": book.symbol,
        "base": base,
        "quote": quote,
        "status": "online",
        "qty_precision": VOLUME_DECIMALS,
        "price_precision": book.price_decimals,
        "marginable": False,
        "has_index": False,
    }


def listed(*, req_id: int | None, times: tuple[int, int]) -> bytes:
    """The acknowledgement of a subscribe to ``instrument``, which has no symbol. Documented, not recorded."""
    result = {"channel": "instrument", "snapshot": True}
    return _answer({"method": "subscribe", "result": result, "success": True}, req_id, times)


def unlisted(*, req_id: int | None, times: tuple[int, int]) -> bytes:
    """The acknowledgement of its ``unsubscribe``. Documented, not recorded."""
    return _answer({"method": "unsubscribe", "result": {"channel": "instrument"}, "success": True}, req_id, times)


def unsubscribed(channel: str, symbol: str, interval: int, *, req_id: int | None, times: tuple[int, int]) -> bytes:
    """The acknowledgement of an ``unsubscribe``, one symbol each. Documented, not recorded."""
    result: dict[str, object] = {"channel": channel}
    if channel == "ohlc":
        result["interval"] = interval
    result["symbol"] = symbol
    return _answer({"method": "unsubscribe", "result": result, "success": True}, req_id, times)


def refused(error: str, method: str, symbol: str, *, req_id: int | None, times: tuple[int, int]) -> bytes:
    """A refusal: the symbol stands at the top level and there is no ``result``. The socket stays open."""
    answer: dict[str, object] = {"error": error}
    if method:
        answer["method"] = method
    answer["success"] = False
    if symbol:
        answer["symbol"] = symbol
    return _answer(answer, req_id, times)


def pong(*, req_id: int | None, times: tuple[int, int]) -> bytes:
    """The answer to a ping; Kraken's sample has no ``success``."""
    answer: dict[str, object] = {"method": "pong"}
    if req_id is not None:
        answer["req_id"] = req_id
    return _answer(answer, None, times)


def _answer(answer: dict[str, object], req_id: int | None, times: tuple[int, int]) -> bytes:
    answer["time_in"], answer["time_out"] = map(microsecond_time, times)
    if req_id is not None:
        answer["req_id"] = req_id
    return _json(answer)


def _trade_row(book: Book, trade: TapeTrade) -> str:
    return (
        f'{{"symbol":"{book.symbol}","side":"{trade.side}","price":{book.price(trade.price)},'
        f'"qty":{fixed(trade.volume, VOLUME_DECIMALS)},"ord_type":"{trade.order_type}","trade_id":{trade.id},'
        f'"timestamp":"{microsecond_time(trade.time_ns)}"}}'
    )


def _ohlc_row(book: Book, candle: Candle, interval: int) -> str:
    # The row's own timestamp is the candle's end, though the documentation calls it the start.
    return (
        f'{{"symbol":"{book.symbol}","open":{book.price(candle.open)},"high":{book.price(candle.high)},'
        f'"low":{book.price(candle.low)},"close":{book.price(candle.close)},"trades":{candle.count},'
        f'"volume":{fixed(candle.volume, VOLUME_DECIMALS)},"vwap":{book.price(candle.vwap)},'
        f'"interval_begin":"{nanosecond_time(candle.begin_s * NS)}","interval":{interval},'
        f'"timestamp":"{microsecond_time((candle.begin_s + interval * 60) * NS)}"}}'
    )


def _joined(rows: Iterable[str]) -> str:
    return ",".join(rows)


def _json(answer: dict[str, object]) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode()
