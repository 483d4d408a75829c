"""Recordings of REST Trades as a source, and what is wrong with files that are not."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kraken_history.kraken.websocket import Trades, decode_frame
from kraken_history.storing.candle_deltas import build_candles
from simulator import frames
from simulator.books import make_books
from simulator.exchange import Exchange, RecordedFeed
from simulator.recording import BadRecording, read_recording
from tests.support.exchanges import ask, rest_of

BOOKS = make_books()
ROW = ["105433.60000", "0.00027625", 1762795433.9717445, "b", "l", "", 10218208]


def page(*rows: Any, key: str = "XBTUSDT") -> dict[str, Any]:
    return {"error": [], "result": {key: list(rows), "last": "1762795433971744500"}}


@pytest.fixture
def played(recordings: Path) -> Exchange:
    exchange = Exchange(BOOKS, RecordedFeed(read_recording(recordings / "rest/trades_xbtusdt_2025-11-10.json", BOOKS)))
    exchange.emit(1000)
    return exchange


def test_a_recording_is_played_with_its_own_ids_and_times_and_then_ends(played: Exchange) -> None:
    tape = played.tapes["BTC/USDT"]

    assert (tape.first_id, tape.last_id, len(tape)) == (10218208, 10219207, 1000)
    assert tape.trades(0, 1)[0].time_ns == 1762795433_971744500
    assert played.is_finished
    assert not played.emit(1)


def test_rest_shows_a_played_recording_as_it_was_recorded(played: Exchange, recordings: Path) -> None:
    recorded = json.loads((recordings / "rest/trades_xbtusdt_2025-11-10.json").read_bytes())

    assert ask(rest_of(played), "Trades", pair="XBTUSDT")["result"]["XBTUSDT"] == recorded["result"]["XBTUSDT"]


def test_rest_shows_only_what_has_been_played(recordings: Path) -> None:
    trades = read_recording(recordings / "rest/trades_xbtusdt_2025-11-10.json", BOOKS)
    exchange = Exchange(BOOKS, RecordedFeed(trades))
    exchange.emit(3)

    rows = ask(rest_of(exchange), "Trades", pair="XBTUSDT", since="0")["result"]["XBTUSDT"]

    assert [row[6] for row in rows] == [10218208, 10218209, 10218210]


def test_candles_of_a_played_recording_equal_krakens_own(played: Exchange, recordings: Path) -> None:
    recorded = json.loads((recordings / "rest/ohlc_xbtusdt_1m_2025-11-10.json").read_bytes())["result"]["XBTUSDT"]
    made = {row[0]: row for row in ask(rest_of(played), "OHLC", pair="XBTUSDT")["result"]["XBTUSDT"]}
    first_whole_minute = 1762795433 // 60 * 60 + 60
    theirs = [row for row in recorded if first_whole_minute <= row[0] and row[0] in made]
    with_trades = [row for row in theirs if row[7]]

    assert [made[row[0]] for row in theirs] == theirs
    assert len(with_trades) == 273


def test_candles_from_the_websocket_frames_equal_krakens_own(played: Exchange, recordings: Path) -> None:
    recorded = json.loads((recordings / "rest/ohlc_xbtusdt_1m_2025-11-10.json").read_bytes())["result"]["XBTUSDT"]
    tape = played.tapes["BTC/USDT"]
    decoded = [decode_frame(frame) for frame in frames.trade_frames(tape.book, tape.trades(0, 1000))]
    trades = [trade for frame in decoded if isinstance(frame, Trades) for trade in frame.trades]
    made = {int(candle.timestamp.timestamp()): candle for candle in build_candles(trades)}
    shared = [row for row in recorded if row[0] in made and row[7] == made[row[0]].trade_count]

    assert len(shared) == 273
    for time, open_, high, low, close, _, volume, _ in shared:
        candle = made[time]
        numbers = (candle.open, candle.high, candle.low, candle.close, candle.volume)
        assert numbers == tuple(map(Decimal, (open_, high, low, close, volume)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "no result object"),
        ({"error": ["EGeneral:Too many requests"]}, "no result object"),
        (page(), "expected trades in the result, got none"),
        (page(ROW, key="XXBTZUSD"), "pair XXBTZUSD"),
        ({"result": {"XBTUSDT": [ROW], "ETHUSDT": [ROW], "last": "1"}}, "exactly one pair"),
        (page(ROW[:6]), "row 0 .*no trade id"),
        (page([*ROW[:6], "10218208"]), "row 0"),
        (page(["dear", *ROW[1:]]), "row 0"),
        (page(["-1.0", *ROW[1:]]), "row 0"),
        (page(["105433.61", *ROW[1:]]), "row 0 .*decimals"),
        (page([*ROW[:3], "x", *ROW[4:]]), "row 0"),
        (page([*ROW[:3], [], *ROW[4:]]), "row 0"),
        (page(ROW, ROW), "row 1 is older"),
        (page(7), "row 0"),
    ],
)
def test_a_malformed_recording_is_refused_with_its_reason(content: object, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "page.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))

    with pytest.raises(BadRecording, match=reason):
        read_recording(path, BOOKS)


def test_a_recording_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRecording, match="No such file"):
        read_recording(tmp_path / "none.json", BOOKS)
