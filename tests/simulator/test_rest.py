"""Kraken's REST: pages, their edges, and refusals."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from simulator.notation import NS
from simulator.rate_limit import RateLimit
from simulator.rest import RestApi
from tests.support.exchanges import NOON_NS, ManualClock, ask, rest_of, seeded_exchange


def trades(rest: RestApi, **params: str) -> tuple[list[Any], str]:
    result = ask(rest, "Trades", **{"pair": "XBTUSDT", **params})["result"]
    return result["XBTUSDT"], result["last"]


def test_paging_by_last_sees_every_id_and_repeats_one_at_each_page_boundary() -> None:
    exchange = seeded_exchange(symbols=["BTC/USDT"])
    exchange.emit_history(3456, hours=5)
    rest = rest_of(exchange)
    tape = exchange.tapes["BTC/USDT"]
    assert tape.first_id is not None
    pages: list[list[int]] = []
    since = "0"
    while True:
        rows, last = trades(rest, since=since)
        pages.append([row[6] for row in rows])
        if len(rows) < 1000:
            break
        since = last

    assert {trade_id for page in pages for trade_id in page} == set(range(tape.first_id, tape.first_id + 3456))
    assert all(set(page) & set(following) for page, following in pairwise(pages))
    assert pages[0][0] == tape.first_id


def test_without_since_the_latest_thousand_are_answered() -> None:
    exchange = seeded_exchange(symbols=["BTC/USDT"])
    exchange.emit(1500)
    rows, last = trades(rest_of(exchange))

    assert len(rows) == 1000
    assert rows[-1][6] == exchange.tapes["BTC/USDT"].last_id
    assert last == str(exchange.tapes["BTC/USDT"].last_time_ns)


def test_since_is_inclusive_as_float64_compares() -> None:
    exchange = seeded_exchange(symbols=["BTC/USDT"])
    exchange.emit_history(50, hours=1)
    tape = exchange.tapes["BTC/USDT"]
    later_but_equal = next(trade for trade in tape.trades(20, 50) if (trade.time_ns + 1) / NS == trade.time_ns / NS)
    since = later_but_equal.time_ns + 1

    rows, _ = trades(rest_of(exchange), since=str(since))

    assert later_but_equal.id in [row[6] for row in rows]
    assert all(row[2] >= since / NS for row in rows)
    assert len(rows) == sum(trade.time_ns / NS >= since / NS for trade in tape.trades(0, 50))


def test_since_is_taken_in_seconds_too() -> None:
    clock = ManualClock()
    exchange = seeded_exchange(clock, symbols=["BTC/USDT"])
    exchange.emit(10)
    clock.advance(10)
    exchange.emit(10)
    rest = rest_of(exchange)

    assert len(trades(rest, since=str(NOON_NS // NS))[0]) == 20
    assert len(trades(rest, since=str(NOON_NS // NS + 5))[0]) == 10
    assert len(trades(rest, since=f"{NOON_NS // NS + 9}.5")[0]) == 10


def test_an_empty_page_repeats_since_as_last() -> None:
    exchange = seeded_exchange(symbols=["BTC/USDT"])
    exchange.emit(10)
    later = str(NOON_NS + 3600 * NS)

    assert trades(rest_of(exchange), since=later) == ([], later)


def test_rows_are_written_as_recorded(recordings: Path) -> None:
    recorded = json.loads((recordings / "rest/trades_xbtusdt_2025-11-10.json").read_bytes())["result"]["XBTUSDT"][0]
    exchange = seeded_exchange(symbols=["BTC/USDT"])
    exchange.emit(1)
    ((row,), _) = trades(rest_of(exchange))

    assert [type(field) for field in row] == [type(field) for field in recorded]
    assert len(row[0].split(".")[1]) == len(recorded[0].split(".")[1])
    assert len(row[1].split(".")[1]) == len(recorded[1].split(".")[1])


@pytest.mark.parametrize("name", ["XRPXBT", "XXRPXXBT", "XRP/BTC"])
def test_the_key_of_an_answer_is_krakens_whatever_was_asked_for(name: str) -> None:
    rest = rest_of(seeded_exchange())

    assert set(ask(rest, "Trades", pair=name)["result"]) == {"XXRPXXBT", "last"}
    assert set(ask(rest, "OHLC", pair=name)["result"]) == {"XXRPXXBT", "last"}


@pytest.mark.parametrize("method", ["Trades", "OHLC", "AssetPairs"])
@pytest.mark.parametrize("name", ["XXBTZUSD", "XBT/USDT", "nonsense"])
def test_an_unknown_pair_is_refused(method: str, name: str) -> None:
    assert ask(rest_of(seeded_exchange()), method, pair=name) == {"error": ["EQuery:Unknown asset pair"]}


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("Trades", {}),
        ("Trades", {"pair": "XBTUSDT", "count": "0"}),
        ("Trades", {"pair": "XBTUSDT", "count": "1001"}),
        ("Trades", {"pair": "XBTUSDT", "count": "many"}),
        ("Trades", {"pair": "XBTUSDT", "since": "yesterday"}),
        ("Trades", {"pair": "XBTUSDT", "since": "-1"}),
        ("Trades", {"pair": "XBTUSDT", "since": "NaN"}),
        ("Trades", {"pair": "XBTUSDT", "since": ""}),
        ("OHLC", {}),
        ("OHLC", {"pair": "XBTUSDT", "interval": "10"}),
        ("OHLC", {"pair": "XBTUSDT", "interval": "720"}),
        ("OHLC", {"pair": "XBTUSDT", "since": "x"}),
    ],
)
def test_bad_arguments_are_refused(method: str, params: dict[str, str]) -> None:
    assert ask(rest_of(seeded_exchange()), method, **params) == {"error": ["EGeneral:Invalid arguments"]}


def test_an_unknown_method_is_refused() -> None:
    assert ask(rest_of(seeded_exchange()), "Depth", pair="XBTUSDT") == {"error": ["EGeneral:Unknown method"]}


def test_ohlc_fills_minutes_without_trades_with_the_previous_close() -> None:
    clock = ManualClock()
    exchange = seeded_exchange(clock, symbols=["BTC/USDT"])
    exchange.emit(4)
    clock.advance(180)
    rows = ask(rest_of(exchange), "OHLC", pair="XBTUSDT")["result"]["XBTUSDT"]
    close = rows[0][4]

    assert [row[0] for row in rows] == [NOON_NS // NS + 60 * minute for minute in range(4)]
    assert rows[1][1:] == rows[3][1:] == [close, close, close, close, "0.0", "0.00000000", 0]


def test_ohlc_holds_720_committed_candles_and_the_running_one_and_last_is_the_last_committed() -> None:
    clock = ManualClock()
    exchange = seeded_exchange(clock, symbols=["BTC/USDT"])
    exchange.emit_history(3000, hours=20)
    result = ask(rest_of(exchange), "OHLC", pair="XBTUSDT")["result"]

    assert len(result["XBTUSDT"]) == 721
    assert result["XBTUSDT"][-1][0] == NOON_NS // NS
    assert result["last"] == result["XBTUSDT"][-2][0]


def test_ohlc_since_is_exclusive_and_the_running_candle_is_always_there() -> None:
    exchange = seeded_exchange(symbols=["BTC/USDT"])
    exchange.emit_history(3000, hours=20)
    rest = rest_of(exchange)
    since = NOON_NS // NS - 300

    def begins(since_s: int) -> list[int]:
        rows = ask(rest, "OHLC", pair="XBTUSDT", since=str(since_s))["result"]["XBTUSDT"]
        return [row[0] for row in rows]

    assert begins(since) == [since + 60 * minute for minute in range(1, 6)]
    assert begins(since + 86400) == [NOON_NS // NS]


def test_ohlc_of_a_book_that_never_traded_is_empty() -> None:
    assert ask(rest_of(seeded_exchange()), "OHLC", pair="ETHUSDT")["result"]["ETHUSDT"] == []


def test_asset_pairs_lists_every_book_or_those_asked_for() -> None:
    rest = rest_of(seeded_exchange())

    assert set(ask(rest, "AssetPairs")["result"]) == {"XRPUSDT", "XBTUSDT", "XXRPXXBT", "ETHUSDT", "SOLUSDT"}
    assert set(ask(rest, "AssetPairs", pair="XBTUSDT,XRPXBT")["result"]) == {"XBTUSDT", "XXRPXXBT"}


def test_time_and_status_have_the_recorded_shape(recordings: Path) -> None:
    clock = ManualClock(1762820224_000000000)
    rest = rest_of(seeded_exchange(clock), clock)

    assert ask(rest, "Time") == json.loads((recordings / "rest/server_time.json").read_bytes())
    status = json.loads((recordings / "rest/system_status.json").read_bytes())["result"]
    assert {**ask(rest, "SystemStatus")["result"], "timestamp": status["timestamp"]} == status


def test_calls_past_the_burst_are_refused_with_http_200_words_until_time_has_refilled_it() -> None:
    now = [0.0]
    rest = RestApi(seeded_exchange(), RateLimit(3, 1.0, clock=lambda: now[0]), ManualClock())
    refusal = {"error": ["EGeneral:Too many requests"]}

    first = [ask(rest, "Trades", pair="XBTUSDT") for _ in range(4)]
    other_pair = ask(rest, "Trades", pair="ETHUSDT")
    no_pair = ask(rest, "Time")
    now[0] += 1.0
    later = [ask(rest, "OHLC", pair="XBTUSDT") for _ in range(2)]

    assert [answer == refusal for answer in first] == [False, False, False, True]
    assert refusal not in (other_pair, no_pair)
    assert [answer == refusal for answer in later] == [False, True]


def test_other_addresses_have_their_own_allowance() -> None:
    limit = RateLimit(1, 0.0, clock=lambda: 0.0)

    assert [limit.allows(address) for address in ("here", "here", "there")] == [True, False, True]


def test_a_limiter_forgets_callers_whose_allowance_is_full_again() -> None:
    now = [0.0]
    limit = RateLimit(1, 1.0, clock=lambda: now[0])
    for caller in range(10_001):
        limit.allows(caller)
    now[0] += 5.0
    limit.allows("another")

    assert len(limit) == 1
