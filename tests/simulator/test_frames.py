"""Frames are written as they were recorded, and our own decoder reads them."""

import json
from pathlib import Path
from typing import Any

from simulator import frames
from simulator.books import make_books
from simulator.candle_series import Candle
from simulator.tape import TapeTrade

(BTC_USD,) = make_books(["BTC/USD"])


def recorded(recordings: Path, name: str) -> list[bytes]:
    return (recordings / "ws_v2" / name).read_bytes().splitlines()


def test_a_status_frame_is_written_as_recorded(recordings: Path) -> None:
    line = recorded(recordings, "ws_v2_btcusd_trade_2026-09-25.jsonl")[0]

    assert frames.status(18125794168470749634) == line


def test_an_acknowledgement_is_written_as_recorded(recordings: Path) -> None:
    trade = recorded(recordings, "ws_v2_btcusd_trade_2026-09-25.jsonl")[1]
    ohlc = recorded(recordings, "ws_v2_btcusdt_ohlc_2026-09-10.jsonl")[1]
    trade_times = (1_790_358_504_745_996_000, 1_790_358_504_746_032_000)
    ohlc_times = (1_789_062_283_105_193_000, 1_789_062_283_105_248_000)

    assert frames.subscribed("trade", "BTC/USD", 0, snapshot=False, req_id=None, times=trade_times) == trade
    assert frames.subscribed("ohlc", "BTC/USDT", 1, snapshot=True, req_id=None, times=ohlc_times) == ohlc


def test_a_refusal_is_written_as_recorded(recordings: Path) -> None:
    line = recorded(recordings, "ws_v2_btcusd_trade_2026-09-25.jsonl")[2]
    times = (1_790_358_534_701_041_000, 1_790_358_534_701_062_000)

    error = "Currency pair not supported XBT/USD"
    assert frames.refused(error, "subscribe", "XBT/USD", req_id=None, times=times) == line


def test_a_trade_frame_is_written_as_recorded(recordings: Path) -> None:
    line = recorded(recordings, "ws_v2_btcusd_trade_2026-09-25.jsonl")[7]
    trade = TapeTrade("BTC/USD", 109116693, 1_790_358_506_844_359_566, 837443, 44780, True, False)

    assert frames.trade_frames(BTC_USD, [trade]) == [line]


def test_an_ohlc_frame_is_written_as_recorded(recordings: Path) -> None:
    line = recorded(recordings, "ws_v2_btcusd_trade_2026-09-25.jsonl")[8]
    candle = Candle(1_790_358_480, 837295)
    candle.high, candle.low, candle.close = 837452, 837294, 837443
    candle.volume, candle.quote, candle.count = 21155628, 837364 * 21155628, 33

    assert frames.ohlc_frame(BTC_USD, [candle], 1, 1_790_358_506_844_359_566) == line


def test_many_trades_are_cut_into_several_frames() -> None:
    trade = TapeTrade("BTC/USD", 1, 1, 1, 1, True, False)
    sizes = [len(json.loads(frame)["data"]) for frame in frames.trade_frames(BTC_USD, [trade] * 1100)]

    assert sizes == [500, 500, 100]


def test_a_snapshot_of_nothing_is_an_empty_frame() -> None:
    (frame,) = frames.trade_frames(BTC_USD, [], is_snapshot=True)
    decoded: dict[str, Any] = json.loads(frame)

    assert (decoded["type"], decoded["data"]) == ("snapshot", [])
