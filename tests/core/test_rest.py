"""REST answers: recorded pages, the table of errors, and bytes that are no answer."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kraken_history.errors import KrakenBusy, KrakenError, KrakenHttpError, KrakenRefused, MalformedMessage
from kraken_history.kraken.rest import (
    TRADES_PAGE,
    TradesPage,
    decode_asset_pairs,
    decode_result,
    decode_trades_page,
    error_kind,
    error_of,
)
from tests.support.examples import digits, json_values

ROW = ["105433.60000", "0.00027625", 1762795433.9717445, "b", "l", "", 10218208]


def page_of(*rows: object, last: object = "1762795433971744500", since: int = 0, key: str = "XBTUSDT") -> TradesPage:
    result = {key: rows} | ({} if last is None else {"last": last})
    return decode_trades_page(msgspec.Raw(json.dumps(result).encode()), "BTC/USDT", since=since)


def changed(at: int, value: object) -> list[object]:
    return [*ROW[:at], value, *ROW[at + 1 :]]


# What was recorded


def test_the_recorded_page_is_a_thousand_consecutive_trades(recordings: Path) -> None:
    body = (recordings / "rest/trades_xbtusdt_2025-11-10.json").read_bytes()

    page = decode_trades_page(decode_result(200, body), "BTC/USDT", since=0)

    assert [trade.id for trade in page.trades] == list(range(10218208, 10219208))
    assert page.rows == TRADES_PAGE == 1000
    assert page.unidentified == 0
    assert page.last == 1762820035982277754
    assert digits(page.trades[0]) == (
        "10218208", "BTC/USDT", "2025-11-10 17:23:53.971744+00:00", "105433.6", "0.00027625", "buy", "limit", "",
    )  # fmt: skip


def test_every_recorded_row_keeps_its_digits_up_to_the_last_that_counts(recordings: Path) -> None:
    body = (recordings / "rest/trades_xbtusdt_2025-11-10.json").read_bytes()
    rows = json.loads(body, parse_float=Decimal)["result"]["XBTUSDT"]
    sides, types = {"b": "buy", "s": "sell"}, {"m": "market", "l": "limit"}

    page = decode_trades_page(decode_result(200, body), "BTC/USDT", since=0)

    for trade, (price, volume, time, side, order_type, misc, id_) in zip(page.trades, rows, strict=True):
        shortest = [text.rstrip("0").rstrip(".") for text in (price, volume)]
        assert [f"{trade.price:f}", f"{trade.volume:f}"] == shortest
        assert trade.id == id_
        assert (trade.side, trade.order_type, trade.misc) == (sides[side], types[order_type], misc)
        assert trade.timestamp == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(time * 10**6))


def test_rows_of_2013_have_no_id_and_are_counted_apart(recordings: Path) -> None:
    body = (recordings / "rest/trades_2013_six_fields.json").read_bytes()

    page = decode_trades_page(decode_result(200, body), "BTC/USD", since=0)

    assert page.trades == []
    assert page.unidentified == page.rows == 14
    assert page.last == 1385579841881785998


def test_since_in_nanoseconds_starts_at_that_instant_itself(recordings: Path) -> None:
    """The two recorded queries ask for the same instant, once in seconds, which starts earlier, once in nanoseconds."""
    lines = (recordings / "rest/trades_count5_since_2021-03-25.jsonl").read_bytes().splitlines()
    exchanges = [json.loads(line) for line in lines]
    since = 1616666442304882029

    coarse, exact = (
        decode_trades_page(decode_result(200, json.dumps(e["response"]).encode()), "BTC/USD", since=since)
        for e in exchanges
    )

    assert f"since={since}&" in exchanges[1]["request"]
    assert [trade.id for trade in coarse.trades] == list(range(33185849, 33185854))
    assert [trade.id for trade in exact.trades] == list(range(33185856, 33185861))
    assert exact.trades[0].timestamp == datetime(2021, 3, 25, 10, 0, 42, 304882, tzinfo=UTC)
    assert (coarse.last, exact.last) == (1616666442301045766, 1616666442390332264)


# Pages


def test_the_key_of_the_pair_is_whatever_it_is() -> None:
    assert page_of(ROW, key="XXBTZUSD") == page_of(ROW, key="BTC/USD") == page_of(ROW)


def test_without_last_the_cursor_is_a_little_before_the_newest_row() -> None:
    """A row's time is the print of a float64, which lies above the true time half of the time."""
    later = changed(2, 1762795434.5)

    assert page_of(ROW, later, changed(2, 1762795434), last=None).last == 1762795434500000000 - 1000


def test_an_empty_page_without_last_stays_where_it_was_asked_for() -> None:
    assert page_of(last=None, since=17).last == 17


def test_an_empty_page_keeps_the_cursor_that_it_was_given() -> None:
    page = page_of(last="1762795433971744500")

    assert (page.rows, page.last) == (0, 1762795433971744500)


def test_a_row_with_id_zero_cannot_be_stored_once_and_only_once() -> None:
    page = page_of(changed(6, 0), ROW)

    assert [trade.id for trade in page.trades] == [10218208]
    assert (page.unidentified, page.rows) == (1, 2)


@pytest.mark.parametrize(
    ("id_", "reason"),
    [("10218209", "got '10218209'"), (-5, "got -5"), (2**63, f"got {2**63}"), (None, "expected a trade id, got None")],
)
def test_a_row_whose_id_cannot_be_read_is_kept_with_the_reason(id_: object, reason: str) -> None:
    page = page_of(changed(6, id_), ROW, ROW[:6], changed(6, 0))

    assert (len(page.trades), page.unidentified, page.rows) == (1, 3, 4)
    (row,) = page.unreadable
    assert row.symbol == "BTC/USDT"
    assert reason in row.reason
    assert json.loads(row.row)[6] == id_


def test_a_page_may_hold_rows_with_and_without_ids() -> None:
    page = page_of(ROW[:6], ROW)

    assert (len(page.trades), page.unidentified) == (1, 1)


def test_fields_past_the_seventh_are_tolerated() -> None:
    assert page_of([*ROW, "new", 5]) == page_of(ROW)


def test_order_types_and_flags_are_kept() -> None:
    (market,) = page_of(changed(4, "m")).trades
    (other,) = page_of([*ROW[:4], "stop-loss", "flag\twith\\tab", 5]).trades

    assert market.order_type == "market"
    assert (other.order_type, other.misc) == ("stop-loss", "flag\twith\\tab")


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [("1762795433.9717445", 971744), ("1762795433.9999999", 999999), ("1762795433", 0), ("1762795433.1", 100000)],
)
def test_times_are_cut_to_microseconds(text: str, microsecond: int) -> None:
    result = msgspec.Raw(b'{"X":[["1","1",%b,"b","l","",1]],"last":"1"}' % text.encode())

    (trade,) = decode_trades_page(result, "BTC/USD", since=0).trades

    assert trade.timestamp == datetime(2025, 11, 10, 17, 23, 53, microsecond, tzinfo=UTC)


@given(st.integers(1_380_000_000 * 10**9, 2_000_000_000 * 10**9))
def test_a_time_never_passes_through_a_float(nanoseconds: int) -> None:
    """Kraken prints a nanosecond time as the shortest decimal of its float64; that print is taken exactly."""
    printed = repr(nanoseconds / 10**9)
    result = msgspec.Raw(b'{"X":[["1","1",%b,"b","l","",1]]}' % printed.encode())

    page = decode_trades_page(result, "BTC/USD", since=0)

    exactly = int(Decimal(printed) * 10**9)
    since_1970 = page.trades[0].timestamp - datetime(1970, 1, 1, tzinfo=UTC)
    assert page.last == exactly - 1000
    assert since_1970 // timedelta(microseconds=1) == exactly // 1000
    assert abs(since_1970 - timedelta(microseconds=nanoseconds / 1000)) <= timedelta(microseconds=1.2)


@pytest.mark.parametrize(
    "row",
    [
        [], ["1"], ["1", "1"], {}, None, "row",
        changed(0, "0"), changed(0, "-1"), changed(0, "NaN"), changed(0, "1e99"), changed(0, None), changed(0, {}),
        changed(0, "1." + "0" * 60 + "1"), changed(1, "0.00000000"), changed(1, "Infinity"), changed(1, [1]),
        changed(2, None), changed(2, "soon"), changed(2, "NaN"), changed(2, 1e17), changed(2, 1e300), changed(2, {}),
        changed(2, 67768036191676800), changed(3, "buy"), changed(3, None), changed(3, []), changed(4, []),
        changed(5, None), changed(5, 3), changed(6, "10218208"), changed(6, -1), changed(6, 2**63), changed(6, 1.5),
        changed(6, True),
    ],
)  # fmt: skip
def test_a_row_that_is_no_trade_takes_only_itself(row: object) -> None:
    """One such row once made the page malformed, and a backfill failed there for good.

    A short row once raised IndexError, and a time past the calendar OSError, as if the network had failed.
    """
    page = page_of(ROW, row)

    assert [trade.id for trade in page.trades] == [10218208]
    assert page.rows == 2
    assert (len(page.refused), page.unidentified) in ((1, 0), (0, 1))
    for refused in page.refused:
        assert (refused.id, refused.symbol) == (10218208, "BTC/USDT")
        assert refused.reason
        assert json.loads(refused.row)[6] == 10218208


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (changed(1, "0.00000000"), "expected a positive price and volume"),
        (changed(0, "-1"), "expected a positive price and volume"),
        (changed(0, "NaN"), "expected a positive price and volume"),
        (changed(0, "1." + "0" * 60 + "1"), "expected a positive price and volume"),
        (changed(2, 1e300), "expected a unix time in seconds"),
        (changed(2, 5), "expected a positive price and volume, and a time in UTC"),
        (changed(3, "buy"), "expected the side b or s"),
    ],
)
def test_a_refused_row_is_known_by_its_id_its_time_and_the_reason(row: list[object], reason: str) -> None:
    (refused,) = page_of(ROW, row).refused

    assert reason in refused.reason
    is_time_read = row[2] == ROW[2]
    assert refused.timestamp == (datetime(2025, 11, 10, 17, 23, 53, 971744, tzinfo=UTC) if is_time_read else None)


def test_a_page_without_one_good_row_is_malformed_if_it_is_long() -> None:
    """If Kraken changes the form of its rows, nothing must be concluded: a backfill would pass over all history."""
    bad = changed(3, "buy")

    assert len(page_of(*[bad] * 10).refused) == 10
    with pytest.raises(MalformedMessage, match="expected the side b or s"):
        page_of(*[bad] * 11)
    with pytest.raises(MalformedMessage):
        page_of({"price": "1"})


@pytest.mark.parametrize(
    "result",
    [
        b"", b"null", b"[]", b"{}", b'{"last":"1"}', b'{"A":[],"B":[],"last":"1"}', b'{"A":{},"last":"1"}',
        b'{"A":[],"last":"soon"}', b'{"A":[],"last":null}', b'{"A":[],"last":[]}', b'{"A":[],"last":1e400}',
        b'{"A\xff":[],"last":"1"}', b'{"A":[["\xff","1",1,"b","l","",1]]}',
        b'{"A":' + b"[" * 100_000, b'{"A":[],"last":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)  # fmt: skip
def test_what_is_no_page_is_malformed_and_comes_back(result: bytes) -> None:
    with pytest.raises(MalformedMessage) as refusal:
        decode_trades_page(msgspec.Raw(result), "BTC/USD", since=0)

    assert refusal.value.payload == result


# Errors

RETRY = [
    "EGeneral:Too many requests",
    "EAPI:Rate limit exceeded",
    "EService:Throttled: 1762795433",
    "EService:Unavailable",
    "EService:Busy",
    "EService:Timeout",
    "EService:Market in cancel_only mode",
    "EGeneral:Internal error",
    "EGeneral:Temporary lockout",
]
PERMANENT = ["EQuery:Unknown asset pair", "EGeneral:Invalid arguments", "EGeneral:Permission denied", "EWhatever:New"]


@pytest.mark.parametrize("error", RETRY)
def test_an_error_that_passes_is_busy(error: str) -> None:
    body = json.dumps({"error": [error]}).encode()

    assert error_kind([error]) == "retry"
    with pytest.raises(KrakenBusy) as busy:
        decode_result(200, body)
    assert busy.value.errors == (error,)


@pytest.mark.parametrize("error", PERMANENT)
def test_an_error_that_stays_is_a_refusal(error: str) -> None:
    body = json.dumps({"error": [error], "result": {}}).encode()

    assert error_kind([error]) == "permanent"
    with pytest.raises(KrakenRefused) as refusal:
        decode_result(200, body)
    assert refusal.value.errors == (error,)
    assert error in str(refusal.value)


def test_of_several_errors_one_that_stays_decides() -> None:
    assert isinstance(error_of(["EService:Busy", "EQuery:Unknown asset pair"]), KrakenRefused)
    assert isinstance(error_of(["EService:Busy", "EGeneral:Too many requests"]), KrakenBusy)


def test_a_warning_comes_with_a_result() -> None:
    assert error_of(["WGeneral:Something"]) is None
    assert decode_result(200, b'{"error":["WGeneral:Something"],"result":[1]}') == msgspec.Raw(b"[1]")
    assert isinstance(error_of(["WGeneral:Something", "EService:Busy"]), KrakenBusy)


def test_no_errors_are_no_error() -> None:
    assert error_of([]) is None
    assert error_kind([]) == "permanent"


def test_throttling_comes_with_http_200_and_without_a_result() -> None:
    with pytest.raises(KrakenBusy):
        decode_result(200, b'{"error":["EGeneral:Too many requests"]}')


@pytest.mark.parametrize("status", [200, 403, 500, 502, 520, 522, 524])
def test_a_page_of_the_proxy_in_front_passes(status: int) -> None:
    with pytest.raises(KrakenHttpError, match=rf"^expected .*, got HTTP {status} with a body that is not JSON"):
        decode_result(status, b"\n <!DOCTYPE html><title>api.kraken.com | 520</title>")


@pytest.mark.parametrize(
    ("status", "body"), [(502, b""), (500, b"{}"), (503, b'{"error":[],"result":{}}'), (429, b"no")]
)
def test_a_status_that_is_not_200_passes(status: int, body: bytes) -> None:
    with pytest.raises(KrakenHttpError, match=f"got HTTP {status}") as busy:
        decode_result(status, body)

    assert isinstance(busy.value, KrakenBusy)  # callers that try again later catch this
    assert (busy.value.status, busy.value.errors) == (status, ())
    assert "Kraken answered" not in str(busy.value)


def test_an_error_of_krakens_counts_whatever_the_status() -> None:
    with pytest.raises(KrakenRefused):
        decode_result(404, b'{"error":["EQuery:Unknown asset pair"]}')


@pytest.mark.parametrize(
    "body",
    [
        b"", b" \n", b"null", b"{", b'{"error":[],"result":{"XXBT', b'{"error":[],"result":{"XXBTZUSD":[["1',
        b"\xff", b"not json", b'{"error":[]}\x00', b"<html>",
    ],
)  # fmt: skip
def test_http_200_with_an_empty_or_cut_body_is_an_outage(body: bytes) -> None:
    """Five such answers in a row once ended a backfill after 4.4 s; a page of the proxy in front never did."""
    with pytest.raises(KrakenHttpError, match="got HTTP 200 with a body that is not JSON"):
        decode_result(200, body)


@pytest.mark.parametrize("body", [b"[1]", b'"text"', b'{"error":"one"}', b'{"error":[1]}', b"[" * 2000 + b"]" * 2000])
def test_http_200_with_json_of_another_form_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedMessage) as refusal:
        decode_result(200, body)

    assert refusal.value.payload == body


# AssetPairs


@pytest.mark.parametrize(
    "result",
    [b"", b"[]", b'{"A":1}', b'{"A":{}}', b'{"A":{"altname":3}}', b'{"A":{"altname":"\xff"}}', b'{"A":' * 100_000],
)
def test_what_is_no_table_of_pairs_is_malformed(result: bytes) -> None:
    """Bytes that are not UTF-8 once raised UnicodeDecodeError, and deep nesting RecursionError."""
    with pytest.raises(MalformedMessage) as refusal:
        decode_asset_pairs(msgspec.Raw(result))

    assert refusal.value.payload == result


# Anything at all


@given(st.integers(100, 599), st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_answer_is_a_result_an_error_of_krakens_or_malformed(status: int, body: bytes) -> None:
    try:
        result = decode_result(status, body)
    except (KrakenError, MalformedMessage):
        return
    assert isinstance(result, msgspec.Raw)


@given(st.binary())
def test_any_bytes_are_a_page_or_malformed(data: bytes) -> None:
    try_page(data)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 7), json_values), max_size=3), st.none() | json_values)
@example([(2, 67768036191676800)], None)
@example([(7, None)], None)
def test_a_page_with_some_fields_changed_is_a_page_or_malformed(changes: list[tuple[int, Any]], last: object) -> None:
    rows = [list(ROW), *(changed(at, value) if at < 7 else value for at, value in changes)]

    try_page(json.dumps({"XBTUSDT": rows, "last": last}).encode())


@given(st.binary() | st.dictionaries(st.text(), json_values).map(lambda value: json.dumps(value).encode()))
def test_anything_is_a_table_of_pairs_or_malformed(data: bytes) -> None:
    try:
        decode_asset_pairs(msgspec.Raw(data))
    except MalformedMessage as malformed:
        assert_carries(malformed, data)


def try_page(data: bytes) -> None:
    try:
        page = decode_trades_page(msgspec.Raw(data), "BTC/USDT", since=0)
    except MalformedMessage as malformed:
        assert_carries(malformed, data)
        return
    for trade in page.trades:
        assert trade.timestamp.tzinfo is UTC
        assert trade.id > 0
        assert Decimal("1e-30") < trade.price < Decimal("1e30")
        assert Decimal("1e-30") < trade.volume < Decimal("1e30")


def assert_carries(malformed: MalformedMessage, data: bytes) -> None:
    assert malformed.payload == data
