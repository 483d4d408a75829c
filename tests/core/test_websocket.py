"""Frames of WebSocket v2: each recorded one as what it is, and anything else as a frame or MalformedMessage."""

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kraken_history.errors import MalformedMessage
from kraken_history.kraken.websocket import (
    OHLC_INTERVALS,
    Candles,
    Frame,
    Heartbeat,
    Ignored,
    Instruments,
    Pong,
    Refused,
    Status,
    Subscribed,
    Trades,
    candle_from_dict,
    decode_frame,
    encode_instruments,
    encode_no_instruments,
    encode_ping,
    encode_subscribe,
    trade_from_dict,
)
from kraken_history.records import HistoricalCandle, HistoricalTrade
from tests.support.examples import digits, json_values

TRADE_ROW: dict[str, Any] = {
    "symbol": "BTC/USD",
    "side": "sell",
    "price": 67890.1,
    "qty": 0.5,
    "ord_type": "market",
    "trade_id": 4711,
    "timestamp": "2026-03-04T05:06:07.890123Z",
}
OHLC_ROW: dict[str, Any] = {
    "symbol": "BTC/USD",
    "open": 100.5,
    "high": 102.5,
    "low": 99.5,
    "close": 101.5,
    "trades": 3,
    "volume": 2.5,
    "vwap": 101.1,
    "interval_begin": "2026-03-04T05:06:00.000000000Z",
    "interval": 1,
    "timestamp": "2026-03-04T05:07:00.000000Z",
}
FRAMES: tuple[dict[str, Any], ...] = (
    {"channel": "trade", "type": "update", "data": [TRADE_ROW, TRADE_ROW | {"trade_id": 4712}]},
    {"channel": "ohlc", "type": "snapshot", "timestamp": "2026-03-04T05:06:08.1Z", "data": [OHLC_ROW]},
    {"channel": "status", "type": "update", "data": [{"system": "online", "version": "2.0.10"}]},
    {"channel": "heartbeat"},
    {"method": "subscribe", "success": True, "result": {"channel": "trade", "symbol": "BTC/USD"}, "req_id": 1},
    {"method": "subscribe", "success": False, "error": "no", "symbol": "BTC/USD"},
    {"method": "pong", "req_id": 7, "time_in": "x", "time_out": "y"},
    {"Error": "Exceeded msg rate"},
)


def trade_frame(*rows: dict[str, Any], type_: str = "update", **more: object) -> bytes:
    return json.dumps({"channel": "trade", "type": type_, "data": rows, **more}).encode()


def ohlc_frame(*rows: dict[str, Any], type_: str = "update") -> bytes:
    return json.dumps({"channel": "ohlc", "type": type_, "data": rows}).encode()


def only_trade(frame: bytes) -> HistoricalTrade:
    decoded = decode_frame(frame)
    assert isinstance(decoded, Trades)
    (trade,) = decoded.trades
    return trade


def without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != key}


# What was recorded


def recorded(recordings: Path, name: str) -> list[bytes]:
    return (recordings / f"ws_v2/{name}.jsonl").read_bytes().splitlines()


def test_each_recorded_frame_of_btc_usd_is_what_it_is(recordings: Path) -> None:
    frames = [decode_frame(frame) for frame in recorded(recordings, "ws_v2_btcusd_trade_2026-09-25")]

    private = "Private data and trading are unavailable on this endpoint. Try ws-auth.kraken.com"
    public = "Public market data subscriptions are unavailable on this endpoint. Try ws.kraken.com"
    assert frames[:7] == [
        Status("online", "2.0.10"),
        Subscribed("trade", "BTC/USD", [], datetime(2026, 9, 25, 17, 48, 24, 746_032, UTC)),
        Refused("Currency pair not supported XBT/USD", "XBT/USD", "subscribe", None),
        Refused(private, "", "subscribe", None),
        Refused(public, "", "subscribe", None),
        Refused("ESession:Invalid session", "", "subscribe", None),
        Ignored("ticker"),
    ]
    assert isinstance(frames[7], Trades)
    assert not frames[7].is_snapshot
    (trade,) = frames[7].trades
    assert digits(trade) == (
        "109116693", "BTC/USD", "2026-09-25 17:48:26.844359+00:00", "83744.3", "0.0004478", "buy", "limit", "",
    )  # fmt: skip
    assert isinstance(frames[8], Candles)
    assert not frames[8].is_snapshot
    (candle,) = frames[8].candles
    assert digits(candle) == (
        "BTC/USD", "2026-09-25 17:48:00+00:00", "1", "83729.5", "83745.2", "83729.4", "83744.3", "0.21155628",
        "17714.961284592", "33", "83736.4", "ohlc",
    )  # fmt: skip
    assert len(frames) == 9


def test_each_recorded_frame_of_btc_usdt_is_what_it_is(recordings: Path) -> None:
    lines = recorded(recordings, "ws_v2_btcusdt_ohlc_2026-09-10")
    frames = [decode_frame(frame) for frame in lines]

    assert frames[:4] == [
        Status("online", "2.0.10"),
        Subscribed(
            "ohlc",
            "BTC/USDT",
            ["timestamp is deprecated, use interval_begin"],
            datetime(2026, 9, 10, 17, 44, 43, 105_248, UTC),
        ),
        Refused("Currency pair not supported XBT/USDT", "XBT/USDT", "subscribe", None),
        Heartbeat(),
    ]
    snapshot, update = frames[4:]
    assert isinstance(snapshot, Candles)
    assert isinstance(update, Candles)
    assert snapshot.is_snapshot
    assert not update.is_snapshot
    assert [as_sent(candle) for candle in snapshot.candles] == rows_of(lines[4])
    assert [as_sent(candle) for candle in update.candles] == rows_of(lines[5])


OHLC_FIELDS = ("symbol", "open", "high", "low", "close", "volume", "vwap")


def as_sent(candle: HistoricalCandle) -> list[str]:
    start = f"{candle.timestamp:%Y-%m-%dT%H:%M:%S}.000000000Z"
    return [str(getattr(candle, field)) for field in OHLC_FIELDS] + [str(candle.trade_count), start]


def rows_of(frame: bytes) -> list[list[str]]:
    rows = json.loads(frame, parse_float=Decimal)["data"]
    return [[shortest(row[field]) for field in (*OHLC_FIELDS, "trades", "interval_begin")] for row in rows]


def shortest(value: object) -> str:
    return str(value).rstrip("0").rstrip(".") if isinstance(value, Decimal) else str(value)


@pytest.mark.parametrize("told", ['"yesterday"', "17", "null", '"2026-09-25T17:48:24"'])
def test_an_answer_without_a_time_is_an_answer(told: str) -> None:
    assert decode_frame(f'{{"method":"pong","time_out":{told}}}'.encode()) == Pong()


def test_a_recorded_frame_decodes_from_text_as_from_bytes(recordings: Path) -> None:
    for frame in recorded(recordings, "ws_v2_btcusd_trade_2026-09-25"):
        assert decode_frame(frame.decode()) == decode_frame(frame)


# Trades


def test_several_trades_of_one_instant_are_several_trades() -> None:
    rows = [TRADE_ROW | {"trade_id": id_, "qty": qty} for id_, qty in ((5, 1), (6, 1), (7, 2))]

    frame = decode_frame(trade_frame(*rows))

    assert isinstance(frame, Trades)
    assert [(trade.id, trade.volume) for trade in frame.trades] == [
        (5, Decimal(1)),
        (6, Decimal(1)),
        (7, Decimal(2)),
    ]
    assert len({trade.timestamp for trade in frame.trades}) == 1


def test_a_snapshot_says_that_it_is_one() -> None:
    frame = decode_frame(trade_frame(TRADE_ROW, type_="snapshot"))

    assert isinstance(frame, Trades)
    assert frame.is_snapshot


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [("59.844359999", 844359), ("59.999999999", 999999), ("59.9999999", 999999), ("59.8", 800000), ("59", 0)],
)
def test_nanoseconds_are_cut_not_rounded(text: str, microsecond: int) -> None:
    trade = only_trade(trade_frame(TRADE_ROW | {"timestamp": f"2026-03-04T23:59:{text}Z"}))

    assert trade.timestamp == datetime(2026, 3, 4, 23, 59, 59, microsecond, tzinfo=UTC)


def test_a_time_of_another_zone_becomes_utc() -> None:
    trade = only_trade(trade_frame(TRADE_ROW | {"timestamp": "2026-03-04T01:30:00.5+05:30"}))

    assert trade.timestamp == datetime(2026, 3, 3, 20, 0, 0, 500000, tzinfo=UTC)
    assert trade.timestamp.tzinfo is UTC


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        ("83744.30", "83744.3"), ("1e-08", "1E-8"), ("5", "5"), ('"0.00044780"', "0.0004478"), ("1E+1", "10"),
        ("100", "100"), ("100.0", "100"), ("1.50E-7", "1.5E-7"),
    ],
)  # fmt: skip
def test_numbers_keep_their_digits_without_zeros_at_the_end(number: str, kept: str) -> None:
    frame = trade_frame(TRADE_ROW).replace(b'"qty": 0.5', b'"qty": ' + number.encode())

    assert str(only_trade(frame).volume) == kept


def test_fields_and_channels_that_nobody_documented_are_tolerated() -> None:
    more = TRADE_ROW | {"conditions": [1, {"deep": None}], "liquidation": True}

    assert only_trade(trade_frame(more, sequence=12, emergency=[])) == only_trade(trade_frame(TRADE_ROW))
    assert decode_frame(b'{"channel":"instrument","type":"update","data":{"assets":[]}}') == Ignored("instrument")
    assert decode_frame(b'{"method":"unheard_of","result":3,"success":true}') == Ignored("unheard_of")


@pytest.mark.parametrize("field", ["symbol", "trade_id"])
def test_a_trade_without_symbol_or_id_is_malformed(field: str) -> None:
    with pytest.raises(MalformedMessage, match=field):
        decode_frame(trade_frame(without(TRADE_ROW, field)))


@pytest.mark.parametrize("field", sorted(TRADE_ROW.keys() - {"symbol", "trade_id"}))
def test_a_trade_that_lacks_another_field_is_refused(field: str) -> None:
    frame = decode_frame(trade_frame(without(TRADE_ROW, field)))

    assert isinstance(frame, Trades)
    (refused,) = frame.refused
    assert (frame.trades, refused.id, field in refused.reason) == ([], 4711, True)


@pytest.mark.parametrize("field", sorted(OHLC_ROW.keys() - {"timestamp"}))
def test_a_candle_that_lacks_a_field_is_malformed(field: str) -> None:
    with pytest.raises(MalformedMessage, match=field):
        decode_frame(ohlc_frame(without(OHLC_ROW, field)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("price", 0), ("price", -1), ("price", "NaN"), ("price", "sNaN"), ("price", "Infinity"), ("price", "1e31"),
        ("price", "1e-31"), ("price", "1." + "0" * 20000 + "1"), ("price", None), ("price", True), ("price", "dear"),
        ("qty", 0), ("qty", -0.5), ("qty", "1e400"), ("side", "b"), ("side", None), ("trade_id", -1),
        ("trade_id", "4711"), ("trade_id", 2**63), ("trade_id", 1.5), ("symbol", "BTC\n/USD"),
        ("symbol", "BTC/USD\x00"),
        ("symbol", "BTCUSD"), ("symbol", ""), ("symbol", "A/B/C"), ("symbol", "\u212a/USD"),
        ("symbol", "x" * 50 + "/USD"),
        ("timestamp", "2026-03-04T05:06:07.890123"), ("timestamp", 1772600767), ("timestamp", "yesterday"),
        ("timestamp", "0001-01-01T00:00:00+23:00"),
    ],
)  # fmt: skip
def test_a_trade_that_cannot_be_takes_only_itself(field: str, value: object) -> None:
    """One trade of volume 0 once made the whole frame malformed, and nine good trades could never be had."""
    frame = decode_frame(trade_frame(TRADE_ROW | {"trade_id": 4710}, TRADE_ROW | {field: value}))

    assert isinstance(frame, Trades)
    assert [trade.id for trade in frame.trades] == [4710]
    if field in ("symbol", "trade_id"):
        (unreadable,) = frame.unreadable
        assert (frame.refused, reason_of(unreadable.payload)) == ([], unreadable.reason)
    else:
        (refused,) = frame.refused
        moment = None if field == "timestamp" else datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
        assert (refused.id, refused.symbol, refused.timestamp) == (4711, "BTC/USD", moment)
        assert refused.reason


def reason_of(frame: bytes) -> str:
    try:
        decode_frame(frame)
    except MalformedMessage as error:
        return error.reason
    return ""


def test_a_frame_without_one_good_trade_is_malformed_if_it_is_long() -> None:
    """If Kraken changes the form of its rows, the frame is kept, and none of its ids counts as refused."""
    rows = [TRADE_ROW | {"trade_id": n, "price": "dear"} for n in range(11)]

    assert len(decode_frame(trade_frame(*rows[:10])).refused) == 10  # type: ignore[union-attr]
    with pytest.raises(MalformedMessage):
        decode_frame(trade_frame(*rows))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("high", 101.4), ("low", 100.6), ("open", 103), ("close", 99), ("volume", -1), ("vwap", "NaN"),
        ("vwap", "sNaN"),
        ("trades", -1), ("trades", 2**31), ("interval", 0), ("interval", 30000), ("volume", "1e31"),
        ("open", "Infinity"),
        ("close", "101." + "5" * 300), ("interval_begin", "2026-03-04T05:06:00"), ("symbol", "BTC USD"),
        ("volume", "1e-500"), ("volume", "0e-20000"), ("vwap", "1e-100"),
    ],
)  # fmt: skip
def test_a_candle_that_cannot_be_is_malformed(field: str, value: object) -> None:
    with pytest.raises(MalformedMessage):
        decode_frame(ohlc_frame(OHLC_ROW | {field: value}))


def test_a_candle_starts_at_its_interval_whatever_its_timestamp_says() -> None:
    frame = decode_frame(ohlc_frame(OHLC_ROW | {"timestamp": "1999-01-01T00:00:00Z"}))

    assert isinstance(frame, Candles)
    assert frame.candles[0].timestamp == datetime(2026, 3, 4, 5, 6, tzinfo=UTC)


def test_the_start_of_a_candle_becomes_utc() -> None:
    frame = decode_frame(ohlc_frame(OHLC_ROW | {"interval_begin": "2026-03-04T10:36:00+05:30"}))

    assert isinstance(frame, Candles)
    assert frame.candles[0].timestamp == datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
    assert frame.candles[0].timestamp.tzinfo is UTC


def test_a_candle_without_trades_has_no_volume_and_is_still_a_candle() -> None:
    frame = decode_frame(ohlc_frame(OHLC_ROW | {"trades": 0, "volume": 0, "vwap": "0.0"}))

    assert isinstance(frame, Candles)
    assert frame.candles[0].quote_volume == 0


# Answers


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ({"method": "pong", "req_id": 1, "time_in": "a", "time_out": "b"}, Pong()),
        ({"method": "pong", "success": False, "error": "no", "req_id": 3}, Refused("no", "", "pong", 3)),
        ({"method": "subscribe", "success": False}, Refused("no reason given", "", "subscribe", None)),
        ({"Error": "Exceeded msg rate"}, Refused("Exceeded msg rate", "", "", None)),
        ({"error": "without a method"}, Refused("without a method", "", "", None)),
        ({"method": "unsubscribe", "success": True, "result": {"channel": "trade"}}, Ignored("unsubscribe")),
        ({"channel": "status", "data": []}, Ignored("status")),
        ({"channel": "status", "data": [{"system": "online"}, {"system": "maintenance"}]}, Status("maintenance", "")),
    ],
)
def test_an_answer_is_what_it_says(frame: dict[str, object], expected: Frame) -> None:
    assert decode_frame(json.dumps(frame)) == expected


def test_a_connection_id_larger_than_any_bigint_is_no_trouble() -> None:
    frame = {"channel": "status", "data": [{"system": "online", "connection_id": 16174536464690282295}]}

    assert decode_frame(json.dumps(frame)) == Status("online", "")


@pytest.mark.parametrize("frame", [b"", b"{}", b"[]", b"null", b"{", b"\xff\xfe", b'{"channel":3}', b'{"data":[]}'])
def test_what_is_no_frame_is_malformed_and_comes_back(frame: bytes) -> None:
    with pytest.raises(MalformedMessage) as refusal:
        decode_frame(frame)

    assert refusal.value.payload == frame


def test_text_that_no_encoding_can_write_is_malformed() -> None:
    """Its payload once could not be encoded either, and the frame raised UnicodeEncodeError."""
    with pytest.raises(MalformedMessage) as refusal:
        decode_frame('{"channel":"\ud800"}')

    assert refusal.value.payload == b'{"channel":"\xed\xa0\x80"}'


@pytest.mark.parametrize("head", [b"", b'{"channel":"trade","data":', b'{"channel":"other","data":'])
@pytest.mark.parametrize("nest", [b"[", b'{"data":'])
def test_a_frame_nested_without_end_is_malformed(head: bytes, nest: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_frame(head + nest * 100_000)


# Requests


def test_a_subscribe_says_snapshot_itself() -> None:
    assert json.loads(encode_subscribe("trade", ["BTC/USDT", "SOL/USDT"], req_id=3)) == {
        "method": "subscribe",
        "params": {"channel": "trade", "symbol": ["BTC/USDT", "SOL/USDT"], "snapshot": True},
        "req_id": 3,
    }


def test_a_subscribe_to_candles_says_their_interval() -> None:
    params = json.loads(encode_subscribe("ohlc", ["BTC/USDT"], req_id=4))["params"]

    assert params == {"channel": "ohlc", "symbol": ["BTC/USDT"], "snapshot": True, "interval": 1}
    assert params["interval"] in OHLC_INTERVALS


def test_a_ping_is_a_ping() -> None:
    assert json.loads(encode_ping(req_id=9)) == {"method": "ping", "req_id": 9}


# Rows that somebody else has decoded


@pytest.mark.parametrize("number", [67890.1, "67890.1", Decimal("67890.1")])
def test_a_price_of_a_dict_may_be_a_float_a_string_or_a_decimal(number: object) -> None:
    trade = trade_from_dict("BTC/USD", TRADE_ROW | {"price": number})

    assert str(trade.price) == "67890.1"


@pytest.mark.parametrize(
    ("number", "text"), [(0.1, "0.1"), (1e-08, "1E-8"), (3, "3"), (100000.0, "100000"), (1e22, "1" + 22 * "0")]
)
def test_of_a_float_the_shortest_decimal_that_means_it_is_taken(number: float, text: str) -> None:
    assert str(trade_from_dict("BTC/USD", TRADE_ROW | {"qty": number}).volume) == text


@given(st.floats(min_value=1e-29, max_value=1e29))
def test_any_float_of_a_dict_is_that_float(number: float) -> None:
    assert float(trade_from_dict("BTC/USD", TRADE_ROW | {"price": number}).price) == number


def test_the_symbol_of_a_dict_is_the_one_given() -> None:
    assert trade_from_dict("ETH/USD", without(TRADE_ROW, "symbol")).symbol == "ETH/USD"
    assert trade_from_dict("ETH/USD", TRADE_ROW).symbol == "ETH/USD"


def test_a_time_of_a_dict_may_be_a_datetime() -> None:
    moment = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)

    assert trade_from_dict("BTC/USD", TRADE_ROW | {"timestamp": moment}) == trade_from_dict("BTC/USD", TRADE_ROW)


def test_a_dict_without_an_order_type_has_none() -> None:
    assert trade_from_dict("BTC/USD", without(TRADE_ROW, "ord_type")).order_type == ""


@pytest.mark.parametrize(
    "row",
    [
        without(TRADE_ROW, "trade_id"),
        TRADE_ROW | {"trade_id": None},
        TRADE_ROW | {"price": float("nan")},
        TRADE_ROW | {"price": float("inf")},
        TRADE_ROW | {"price": object()},
        TRADE_ROW | {"timestamp": datetime(2026, 3, 4)},  # noqa: DTZ001 — a naive time is the point
        TRADE_ROW | {"timestamp": 1772600767.89},
        TRADE_ROW | {"ord_type": "\ud800"},
        {},
    ],
)
def test_a_dict_that_is_no_trade_is_malformed(row: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        trade_from_dict("BTC/USD", row)


def test_a_dict_that_contains_itself_is_malformed() -> None:
    row = dict(TRADE_ROW)
    row["more"] = row

    with pytest.raises(MalformedMessage):
        trade_from_dict("BTC/USD", row)


def test_a_dict_of_a_symbol_that_is_none_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        trade_from_dict('X","side":"buy', TRADE_ROW)


def test_a_candle_of_a_dict_is_the_candle_of_the_frame() -> None:
    frame = decode_frame(ohlc_frame(OHLC_ROW))

    assert isinstance(frame, Candles)
    assert [candle_from_dict("BTC/USD", OHLC_ROW)] == frame.candles


def test_a_candle_of_a_dict_without_an_interval_is_of_one_minute() -> None:
    assert candle_from_dict("BTC/USD", without(OHLC_ROW, "interval")).interval_minutes == 1


@pytest.mark.parametrize("field", ["open", "interval_begin", "trades", "vwap"])
def test_a_dict_that_is_no_candle_is_malformed(field: str) -> None:
    with pytest.raises(MalformedMessage):
        candle_from_dict("BTC/USD", without(OHLC_ROW, field))


# Anything at all

FIELDS = sorted({*TRADE_ROW, *OHLC_ROW, *(key for frame in FRAMES for key in frame)})


def assert_sane(frame: bytes | str) -> None:
    """A frame or MalformedMessage, and in a frame nothing that a database or a log would choke on."""
    try:
        decoded = decode_frame(frame)
    except MalformedMessage as malformed:
        assert_carries(malformed, frame)
        return
    assert isinstance(decoded, Frame)
    if isinstance(decoded, Trades):
        for trade in decoded.trades:
            assert_sane_numbers(trade, trade.price, trade.volume)
    elif isinstance(decoded, Candles):
        for candle in decoded.candles:
            c = candle
            assert_sane_numbers(c, c.open, c.high, c.low, c.close, c.volume, c.vwap, c.quote_volume)


def assert_carries(malformed: MalformedMessage, frame: bytes | str) -> None:
    assert malformed.payload == (frame if isinstance(frame, bytes) else frame.encode(errors="surrogatepass"))


def assert_sane_numbers(record: HistoricalTrade | HistoricalCandle, *numbers: Decimal) -> None:
    assert record.timestamp.tzinfo is UTC
    assert record.symbol.isascii()
    assert record.symbol.isprintable()
    for number in numbers:
        assert number.is_finite()
        assert 0 <= number < Decimal("1e60")
        assert len(f"{number:f}") <= 200


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_frame_or_malformed(data: bytes) -> None:
    assert_sane(data)


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_a_frame_or_malformed(text: str) -> None:
    assert_sane(text)


@given(st.dictionaries(st.sampled_from(FIELDS), json_values))
@example({"channel": "trade", "data": [None]})
@example({"channel": "ohlc", "data": [[]]})
def test_any_json_is_a_frame_or_malformed(value: dict[str, Any]) -> None:
    assert_sane(json.dumps(value))


@settings(max_examples=300)
@given(st.data())
def test_a_frame_with_some_field_changed_is_a_frame_or_malformed(data: st.DataObject) -> None:
    frame = copy.deepcopy(data.draw(st.sampled_from(FRAMES)))
    for _ in range(data.draw(st.integers(1, 3))):
        change_somewhere(frame, data)

    assert_sane(json.dumps(frame))


def change_somewhere(frame: dict[str, Any], data: st.DataObject) -> None:
    rows = frame.get("data")
    inside = isinstance(rows, list) and rows and isinstance(rows[0], dict) and data.draw(st.booleans())
    place: dict[str, Any] = data.draw(st.sampled_from(rows)) if inside and isinstance(rows, list) else frame
    if not isinstance(place, dict) or not place:
        return
    key = data.draw(st.sampled_from(sorted(place)))
    change: Callable[[], object] = data.draw(
        st.sampled_from((lambda: place.pop(key), lambda: place.__setitem__(key, data.draw(json_values))))
    )
    change()


@settings(max_examples=300)
@given(st.sampled_from(FRAMES), st.data())
def test_a_frame_with_some_bytes_changed_is_a_frame_or_malformed(frame: dict[str, Any], data: st.DataObject) -> None:
    raw = bytearray(msgspec.json.encode(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        raw = raw or bytearray(b"{")

    assert_sane(bytes(raw))


@given(st.integers(0, 60), st.integers(0, 10**9 - 1))
def test_any_nanosecond_is_cut_to_its_microsecond(second: int, nanosecond: int) -> None:
    start = datetime(2026, 3, 4, 5, 6, tzinfo=UTC) + timedelta(seconds=second)

    trade = only_trade(trade_frame(TRADE_ROW | {"timestamp": f"{start:%Y-%m-%dT%H:%M:%S}.{nanosecond:09d}Z"}))

    assert trade.timestamp == start + timedelta(microseconds=nanosecond // 1000)


def test_the_list_of_symbols_has_them_letter_by_letter() -> None:
    frame = b'{"channel":"instrument","type":"snapshot","data":{"assets":[],"pairs":[{"symbol":"BTC/USD","base":"BTC"},'
    frame += b'{"symbol":"AAPLx/USD","status":"online"}]}}'

    assert decode_frame(frame) == Instruments(["BTC/USD", "AAPLx/USD"])


def test_a_list_of_symbols_without_pairs_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        decode_frame(b'{"channel":"instrument","type":"snapshot","data":{"assets":[]}}')


def test_the_list_is_asked_for_with_tokenised_assets_and_ended() -> None:
    assert json.loads(encode_instruments(req_id=9)) == {
        "method": "subscribe",
        "params": {"channel": "instrument", "snapshot": True, "include_tokenized_assets": True},
        "req_id": 9,
    }
    assert json.loads(encode_no_instruments(req_id=9)) == {
        "method": "unsubscribe",
        "params": {"channel": "instrument"},
        "req_id": 9,
    }
