"""Answers of OHLC: a recorded one, and bytes that are none."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_history.errors import KrakenRefused, MalformedMessage
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import OhlcPage, decode_ohlc_page, decode_result
from kraken_history.records import MINUTE
from simulator import Simulator
from tests.gaps.conftest import PAIR, Counting
from tests.support.examples import json_values
from tests.support.exchanges import NOON_NS, ManualClock
from tests.support.kraken import all_trades

ROW = [1762820100, "105433.6", "105433.7", "105433.5", "105433.6", "105433.6", "0.00027625", 3]
EMPTY = [1762820160, "105433.6", "105433.6", "105433.6", "105433.6", "0.0", "0.00000000", 0]
RUNNING = [1762820220, "105433.6", "105433.6", "105433.6", "105433.6", "105433.6", "1.0", 1]


def page_of(*rows: object, last: object = 1762820160, **more: object) -> OhlcPage:
    return decode_ohlc_page(msgspec.Raw(json.dumps({"XBTUSDT": rows, "last": last} | more).encode()), "BTC/USDT")


def changed(at: int, value: object) -> list[object]:
    return [*ROW[:at], value, *ROW[at + 1 :]]


def test_the_recorded_answer_is_720_closed_minutes_without_a_gap_and_one_that_runs(recordings: Path) -> None:
    body = (recordings / "rest/ohlc_xbtusdt_1m_2025-11-10.json").read_bytes()
    page = decode_ohlc_page(decode_result(200, body), "BTC/USDT")

    times = [candle.timestamp for candle in page.candles]
    assert len(times) == 720
    assert times == [times[0] + at * MINUTE for at in range(720)]
    assert times[-1] == datetime.fromtimestamp(1762820160, UTC)
    assert sum(not candle.trade_count for candle in page.candles) == 215  # and the running one is empty too
    assert page.running is not None
    assert page.running.timestamp == times[-1] + MINUTE


def test_a_row_keeps_its_digits() -> None:
    (candle,) = page_of(ROW).candles

    assert candle.timestamp == datetime(2025, 11, 11, 0, 15, tzinfo=UTC)
    assert (candle.symbol, candle.interval_minutes, candle.trade_count) == ("BTC/USDT", 1, 3)
    assert (str(candle.open), str(candle.volume), str(candle.vwap)) == ("105433.6", "0.00027625", "105433.6")
    assert candle.quote_volume == Decimal("29.12603200")


def test_an_empty_minute_is_there_and_counts_nothing() -> None:
    page = page_of(ROW, EMPTY, RUNNING)

    assert [candle.trade_count for candle in page.candles] == [3, 0]
    assert page.candles[1].vwap == page.candles[1].volume == 0
    assert page.running is not None
    assert page.running.trade_count == 1


def test_without_a_running_candle_there_is_none() -> None:
    assert page_of(ROW, EMPTY).running is None
    assert page_of() == OhlcPage([], None)


@pytest.mark.parametrize(
    "row",
    [
        [],
        ROW[:7],
        changed(0, "1762820100"),
        changed(0, 1762820101),
        changed(1, "0"),
        changed(2, "1"),
        changed(4, "NaN"),
        changed(6, "-1"),
        changed(6, None),
        changed(7, -1),
        changed(7, True),
        changed(7, 1.5),
    ],
    ids=str,
)
def test_a_row_that_is_no_candle_spoils_the_page(row: list[object]) -> None:
    with pytest.raises(MalformedMessage, match="invalid page of OHLC"):
        page_of(ROW, row)


@pytest.mark.parametrize("last", [None, "soon", [], 10**30])
def test_without_a_last_nobody_knows_which_candle_runs(last: object) -> None:
    with pytest.raises(MalformedMessage):
        page_of(ROW, last=last)


def test_two_pairs_are_no_answer() -> None:
    with pytest.raises(MalformedMessage):
        page_of(ROW, XXBTZUSD=[])


@given(json_values)
def test_whatever_json_comes_it_is_no_other_error(value: object) -> None:
    with suppress(MalformedMessage):
        decode_ohlc_page(msgspec.Raw(json.dumps(value).encode()), "BTC/USDT")


@given(st.binary(max_size=50))
def test_whatever_bytes_come_the_error_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_ohlc_page(msgspec.Raw(body), "BTC/USDT")


async def test_the_client_asks_for_the_candles_after_a_time() -> None:
    clock = ManualClock(NOON_NS + 30 * 10**9)
    noon = datetime.fromtimestamp(NOON_NS // 10**9, UTC)
    async with (
        Simulator(symbols=["BTC/USDT"], emitting=False, history=6_000, history_hours=20, clock=clock) as kraken,
        KrakenRest(kraken.rest_url, Counting(), attempts=1) as rest,
    ):
        latest = await rest.fetch_ohlc_page(PAIR, noon - timedelta(minutes=11))
        all_of_it = await rest.fetch_ohlc_page(PAIR, noon - timedelta(days=3))
        trades = await all_trades(rest, PAIR)
        with pytest.raises(KrakenRefused):
            await rest.fetch_ohlc_page(type(PAIR)("NO/NO", "NONO", "NONO", "NO/NO"), noon)

    assert [c.timestamp for c in latest.candles] == [noon - at * MINUTE for at in range(10, 0, -1)]
    assert latest.running is not None
    assert len(all_of_it.candles) == 720
    in_reach = [t for t in trades if noon - 720 * MINUTE <= t.timestamp < noon]
    assert sum(c.trade_count for c in all_of_it.candles) == len(in_reach)
