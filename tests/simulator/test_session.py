"""What a connection may ask, and what it is answered."""

import json
from decimal import Decimal
from typing import Any

import pytest

from kraken_history.kraken.websocket import (
    OHLC_INTERVALS,
    Candles,
    Frame,
    Ignored,
    Pong,
    Refused,
    Status,
    Subscribed,
    Trades,
    decode_frame,
    encode_ping,
    encode_subscribe,
)
from kraken_history.records import HistoricalTrade
from kraken_history.symbols import DEFAULT_SYMBOLS
from simulator.exchange import Batch, Exchange
from simulator.session import Session
from tests.support.exchanges import NOON_NS, ManualClock, ask, rest_of, seeded_exchange


def session_of(exchange: Exchange) -> Session:
    return Session(exchange, 2**63 + 5, ManualClock())


def answers(session: Session, **request: Any) -> list[Frame]:
    return [decode_frame(frame) for frame in session.answer(json.dumps(request))]


def subscribe(session: Session, channel: str, *symbols: str, **params: Any) -> list[Frame]:
    return answers(session, method="subscribe", params={"channel": channel, "symbol": list(symbols), **params})


def updates(session: Session, batch: Batch) -> list[Frame]:
    return [decode_frame(frame) for frame in session.updates(batch, {})]


def test_the_greeting_is_an_online_status_with_an_id_beyond_int64() -> None:
    (frame,) = session_of(seeded_exchange()).greeting()

    assert isinstance(decode_frame(frame), Status)
    assert json.loads(frame)["data"][0]["connection_id"] > 2**63
    assert {"upcoming_maintenance", "emergency"} <= set(json.loads(frame)["data"][0])


def test_each_symbol_is_acknowledged_alone_and_req_id_is_echoed() -> None:
    session = session_of(seeded_exchange())
    frames = session.answer(encode_subscribe("trade", DEFAULT_SYMBOLS, req_id=77))
    decoded = [decode_frame(frame) for frame in frames]

    assert [frame.symbol for frame in decoded if isinstance(frame, Subscribed)] == list(DEFAULT_SYMBOLS)
    assert all(json.loads(frame)["req_id"] == 77 for frame in frames if b"method" in frame)


@pytest.mark.parametrize(
    ("symbol", "error"),
    [
        ("XBT/USDT", "Currency pair not supported XBT/USDT"),
        ("XBTUSD", "Currency pair not in ISO 4217-A3 format XBTUSD"),
        ("btc/usdt", "Currency pair not supported btc/usdt"),
    ],
)
def test_another_spelling_is_refused_and_the_rest_of_the_request_is_not(symbol: str, error: str) -> None:
    refusal, accepted = subscribe(session_of(seeded_exchange()), "trade", symbol, "BTC/USDT", snapshot=False)

    assert refusal == Refused(error, symbol, "subscribe", None)
    assert isinstance(accepted, Subscribed)


@pytest.mark.parametrize("interval", OHLC_INTERVALS)
def test_the_documented_intervals_are_accepted(interval: int) -> None:
    accepted, snapshot = subscribe(session_of(seeded_exchange()), "ohlc", "BTC/USDT", interval=interval)

    assert isinstance(accepted, Subscribed)
    assert (accepted.channel, accepted.symbol) == ("ohlc", "BTC/USDT")
    assert accepted.warnings == ["timestamp is deprecated, use interval_begin"]
    assert snapshot == Candles([], is_snapshot=True)


@pytest.mark.parametrize("interval", [0, 2, 10, 720, -1])
def test_other_intervals_are_refused(interval: int) -> None:
    (refusal,) = subscribe(session_of(seeded_exchange()), "ohlc", "BTC/USDT", interval=interval)

    assert isinstance(refusal, Refused)


def test_private_channels_are_unavailable_here() -> None:
    (refusal,) = subscribe(session_of(seeded_exchange()), "executions")

    assert isinstance(refusal, Refused)
    assert refusal.error.startswith("Private data and trading are unavailable on this endpoint")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"null",
        b'"ping"',
        b'{"method":5}',
        b'{"method":"dance"}',
        b'{"method":"subscribe"}',
        b'{"method":"subscribe","params":{"channel":"trade","symbol":"BTC/USDT"}}',
        b'{"method":"subscribe","params":{"channel":"weather","symbol":["BTC/USDT"]}}',
        b'{"method":"subscribe","params":{"channel":"trade","symbol":[]}}',
        b'{"method":"unsubscribe","params":{"channel":"trade","symbol":["BTC/USDT"]}}',
        b"[" * 100_000,
    ],
)
def test_what_cannot_be_done_is_answered_with_an_error(message: bytes) -> None:
    (frame,) = session_of(seeded_exchange()).answer(message)

    assert isinstance(decode_frame(frame), Refused)


def test_a_ping_is_answered_with_a_pong_of_the_same_req_id() -> None:
    (frame,) = session_of(seeded_exchange()).answer(encode_ping(req_id=9))

    assert isinstance(decode_frame(frame), Pong)
    assert json.loads(frame)["req_id"] == 9
    assert "success" not in json.loads(frame)


def test_the_trade_snapshot_holds_the_latest_fifty_trades_in_order() -> None:
    exchange = seeded_exchange(symbols=["BTC/USDT"])
    exchange.emit(80)
    _, snapshot = subscribe(session_of(exchange), "trade", "BTC/USDT", snapshot=True)
    last_id = exchange.tapes["BTC/USDT"].last_id

    assert last_id is not None
    assert isinstance(snapshot, Trades)
    assert snapshot.is_snapshot
    assert [trade.id for trade in snapshot.trades] == list(range(last_id - 49, last_id + 1))


def test_a_subscriber_gets_every_trade_of_its_symbols_and_no_other() -> None:
    exchange = seeded_exchange()
    session = session_of(exchange)
    subscribe(session, "trade", "BTC/USDT", "XRP/USDT", snapshot=False)
    batch = exchange.emit(400)
    trades = [trade for frame in updates(session, batch) if isinstance(frame, Trades) for trade in frame.trades]

    for symbol in ("BTC/USDT", "XRP/USDT"):
        assert [trade.id for trade in trades if trade.symbol == symbol] == [trade.id for trade in batch[symbol]]
    assert {trade.symbol for trade in trades} == {"BTC/USDT", "XRP/USDT"}


def test_prices_and_volumes_keep_their_trailing_zeros() -> None:
    exchange = seeded_exchange(symbols=["BTC/USDT"])
    session = session_of(exchange)
    subscribe(session, "trade", "BTC/USDT")
    (frame,) = session.updates(exchange.emit(300), {})

    rows = json.loads(frame, parse_float=Decimal)["data"]
    assert {row["price"].as_tuple().exponent for row in rows} == {-1}
    assert {row["qty"].as_tuple().exponent for row in rows} == {-8}
    assert any(str(row["qty"]).endswith("0") for row in rows)


def test_the_rest_twin_of_a_trade_differs_in_nothing_but_about_a_microsecond() -> None:
    exchange = seeded_exchange(symbols=["BTC/USDT"])
    session = session_of(exchange)
    subscribe(session, "trade", "BTC/USDT")
    (frame,) = updates(session, exchange.emit(500))
    assert isinstance(frame, Trades)
    raw = rest_of(exchange).answer("Trades", {"pair": "XBTUSDT", "since": "0"}, "127.0.0.1")
    rows = json.loads(raw, parse_float=Decimal)["result"]["XBTUSDT"]
    differences = []
    for trade, (price, volume, time, side, order_type, _, trade_id) in zip(frame.trades, rows, strict=True):
        assert isinstance(trade, HistoricalTrade)
        assert (trade.id, trade.price, trade.volume) == (trade_id, Decimal(price), Decimal(volume))
        assert (trade.side[0], trade.order_type[0]) == (side, order_type)
        websocket_us = int(trade.timestamp.timestamp()) * 10**6 + trade.timestamp.microsecond
        differences.append(abs(time * 10**6 - websocket_us))

    assert Decimal("0.1") < max(differences) <= Decimal("1.2")


def test_the_ohlc_snapshot_holds_up_to_ten_candles_that_have_trades() -> None:
    clock = ManualClock()
    exchange = seeded_exchange(clock, symbols=["BTC/USDT"])
    for minutes in (1, 1, 5, 1, 1, 1, 1, 1, 1, 1, 1, 1):
        exchange.emit(3)
        clock.advance(60 * minutes)
    _, snapshot = subscribe(session_of(exchange), "ohlc", "BTC/USDT")

    assert isinstance(snapshot, Candles)
    assert len(snapshot.candles) == 10
    assert all(candle.trade_count == 3 for candle in snapshot.candles)


def test_an_ohlc_update_is_the_whole_running_candle() -> None:
    exchange = seeded_exchange(symbols=["BTC/USDT"])
    session = session_of(exchange)
    exchange.emit(10)
    subscribe(session, "ohlc", "BTC/USDT", interval=5)
    (raw,) = session.updates(exchange.emit(1), {})
    frame = decode_frame(raw)
    row = json.loads(raw)["data"][0]

    assert isinstance(frame, Candles)
    assert frame.candles[0].trade_count == 11
    assert row["interval_begin"].endswith(":00.000000000Z")
    assert row["timestamp"][14:16] == f"{(int(row['interval_begin'][14:16]) + 5) % 60:02d}"  # live, it is the end
    assert len(json.loads(raw)["timestamp"]) == len("2026-09-25T17:48:26.844359566Z")


def test_candles_of_minutes_without_trades_are_never_sent() -> None:
    clock = ManualClock()
    exchange = seeded_exchange(clock, symbols=["BTC/USDT"])
    session = session_of(exchange)
    subscribe(session, "ohlc", "BTC/USDT")
    sent = updates(session, exchange.emit(2))
    clock.advance(180)
    sent += updates(session, {})
    sent += updates(session, exchange.emit(2))
    begins = {candle.timestamp for frame in sent if isinstance(frame, Candles) for candle in frame.candles}
    rows = ask(rest_of(exchange), "OHLC", pair="XBTUSDT")["result"]["XBTUSDT"]

    assert len(begins) == 2
    assert [row[7] for row in rows] == [2, 0, 0, 2]


def test_a_batch_over_a_rollover_sends_both_candles() -> None:
    clock = ManualClock(NOON_NS + 10_000_000)
    exchange = seeded_exchange(clock, symbols=["BTC/USDT"])
    session = session_of(exchange)
    subscribe(session, "ohlc", "BTC/USDT")
    sent = updates(session, exchange.emit(40, spread_ns=20_000_000))

    counts = [candle.trade_count for frame in sent if isinstance(frame, Candles) for candle in frame.candles]
    assert len(counts) == 2
    assert sum(counts) == 40


def test_after_an_unsubscribe_nothing_more_is_sent() -> None:
    exchange = seeded_exchange(symbols=["BTC/USDT"])
    session = session_of(exchange)
    subscribe(session, "trade", "BTC/USDT")
    answer = answers(session, method="unsubscribe", params={"channel": "trade", "symbol": ["BTC/USDT"]})

    assert answer == [Ignored("unsubscribe")]
    assert not updates(session, exchange.emit(5))


def test_frames_are_made_once_for_all_connections() -> None:
    exchange = seeded_exchange(symbols=["BTC/USDT"])
    one, other = session_of(exchange), session_of(exchange)
    for session in (one, other):
        subscribe(session, "trade", "BTC/USDT")
    batch, prepared = exchange.emit(5), {}  # type: ignore[var-annotated]

    (frame,) = one.updates(batch, prepared)
    (same_frame,) = other.updates(batch, prepared)

    assert frame is same_frame
