"""Entries of a stream: what goes in comes out, and what is none is malformed."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kraken_history.errors import MalformedMessage
from kraken_history.records import HistoricalCandle, HistoricalTrade, RefusedTrade
from kraken_history.stream import wire
from tests.support.examples import NOON, candles, make_trade, trades


@given(st.lists(trades(), max_size=20))
def test_trades_come_out_as_they_went_in(batch: list[HistoricalTrade]) -> None:
    decoded = wire.decode_trades(wire.encode(batch))

    assert decoded == batch
    assert all(is_canonical(trade) for trade in decoded)


@given(st.lists(candles(), max_size=20))
def test_candles_come_out_as_they_went_in(batch: list[HistoricalCandle]) -> None:
    decoded = wire.decode_candles(wire.encode(batch))

    assert decoded == batch
    assert all(is_canonical(candle) for candle in decoded)


def is_canonical(record: HistoricalTrade | HistoricalCandle) -> bool:
    """No number has a zero after its last digit behind the decimal point, or a positive exponent."""
    numbers = [n for field in record.__struct_fields__ if isinstance(n := getattr(record, field), Decimal)]
    exponents = [(number.as_tuple().exponent, number.as_tuple().digits) for number in numbers]
    return all(isinstance(e, int) and (e == 0 or (e < 0 and digits[-1] != 0)) for e, digits in exponents)


def test_any_text_of_kraken_comes_out_as_it_went_in() -> None:
    trade = make_trade(1, order_type="limit\t\\\n", misc="é\x00🐙")

    assert wire.decode_trades(wire.encode([trade])) == [trade]


def test_times_come_out_in_utc() -> None:
    (trade,) = wire.decode_trades(wire.encode([make_trade(1)]))

    assert trade.timestamp.tzinfo is UTC


def test_candles_that_were_encoded_without_a_source_are_those_of_the_exchange() -> None:
    """Entries that an older producer wrote are still in the stream after an update."""
    row = ["BTC/USDT", NOON, 1, "100", "102", "99", "101", "2", "200", 3, "100"]

    (candle,) = wire.decode_candles(entry(row))

    assert (candle.trade_count, candle.source) == (3, "ohlc")


def entry(*rows: object, version: bytes = b"1") -> dict[bytes, bytes]:
    return {b"v": version, b"d": msgspec.msgpack.encode(rows)}


ROW: list[Any] = [7, "BTC/USDT", NOON, "100.0", "1", "buy", "limit", ""]


def changed(at: int, value: object) -> list[Any]:
    return [*ROW[:at], value, *ROW[at + 1 :]]


@pytest.mark.parametrize(
    "row",
    [
        [], None, 5, {}, ROW[:6],
        changed(0, -1), changed(0, 2**63), changed(0, "7"), changed(0, None),
        changed(1, "BTCUSDT"), changed(1, "BTC\n/USDT"), changed(1, "\u212a/USD"), changed(1, 3),
        changed(2, "2025-11-10T12:00:00"), changed(2, "2025-11-10T12:00:00+05:30"), changed(2, 1762776000),
        changed(3, "0"), changed(3, "-1"), changed(3, "NaN"), changed(3, "sNaN"), changed(3, "Infinity"),
        changed(3, "1e999999999999999999999"), changed(3, "1" * 49), changed(3, "1." + "0" * 20000 + "1"),
        changed(3, True),
        changed(4, "0"), changed(4, "1e-31"), changed(4, "1e31"), changed(4, None),
        changed(5, "b"), changed(6, None), changed(7, 3),
    ],
)  # fmt: skip
def test_an_entry_with_one_row_that_is_no_trade(row: object) -> None:
    """As a whole it is malformed; a reader that goes row by row gets the good one, and knows the other if it can."""
    fields = entry(ROW, row)

    with pytest.raises(MalformedMessage) as refusal:
        wire.decode_trades(fields)
    found = wire.decode_trades_entry(fields)

    assert refusal.value.payload == fields[b"d"]
    assert [trade.id for trade in found.trades] == [7]
    (bad,) = found.bad_rows
    assert bad.fields == entry(row)
    assert [(one.id, one.symbol, one.reason) for one in found.refused] in ([], [(7, "BTC/USDT", bad.reason)])
    assert bool(found.refused) == (isinstance(row, list) and row[:2] == ROW[:2])


def test_refused_trades_travel_with_an_entry_and_an_older_reader_does_not_see_them() -> None:
    refused = [RefusedTrade(8, "BTC/USDT", NOON, "volume 0", "{}"), RefusedTrade(9, "BTC/USDT", None, "no time")]

    fields = wire.encode([make_trade(7)], refused)

    assert wire.decode_trades_entry(fields) == wire.TradesEntry([make_trade(7)], refused)
    assert wire.decode_trades(fields) == [make_trade(7)]
    assert wire.decode_trades_entry(wire.encode([make_trade(7)])).refused == ()
    assert wire.decode_trades_entry(wire.encode((), refused)).trades == []


def test_an_entry_of_many_bad_rows_alone_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        wire.decode_trades_entry(entry(*[changed(3, "0")] * 11))


CANDLE_ROW: list[Any] = ["BTC/USDT", NOON, 1, "100", "102", "99", "101", "2.5", "250", 3, "100.5"]


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, "BTC"), (1, "2025-11-10T12:00:00"), (1, "2025-11-10T12:00:00+01:00"), (1, NOON.replace(second=30)),
        (1, NOON.replace(microsecond=1)), (3, "103"), (4, "98"), (5, "0"), (6, "NaN"), (7, "-1"), (8, "-1"),
        (8, "1e61"),
        (9, -1), (9, 2**31), (10, "sNaN"), (10, "1e31"), (7, "0e-20000"), (8, "1e-400"),
    ],
)  # fmt: skip
def test_an_entry_with_one_row_that_is_no_candle_is_malformed(at: int, value: object) -> None:
    rows = [CANDLE_ROW, [*CANDLE_ROW[:at], value, *CANDLE_ROW[at + 1 :]]]

    assert wire.decode_candles(entry(CANDLE_ROW))
    with pytest.raises(MalformedMessage):
        wire.decode_candles(entry(*rows))


@pytest.mark.parametrize("version", [b"0", b"2", b"10", b""])
@pytest.mark.parametrize("decode", [wire.decode_trades, wire.decode_candles])
def test_an_entry_of_another_version_is_malformed(version: bytes, decode: Any) -> None:
    with pytest.raises(MalformedMessage, match="expected an entry of format b'1'"):
        decode(entry(ROW, version=version))


@pytest.mark.parametrize("fields", [{}, {b"v": b"1"}, {b"d": b"\x90"}, {b"v": b"1", b"d": b""}])
def test_an_entry_that_lacks_a_field_is_malformed(fields: dict[bytes, bytes]) -> None:
    with pytest.raises(MalformedMessage):
        wire.decode_trades(fields)


@pytest.mark.parametrize("payload", [b"\xdd\xff\xff\xff\xff", b"\x91" * 100_000, b"\xc1", b"\x91\xc4\x01\x00"])
def test_a_payload_that_promises_too_much_is_malformed(payload: bytes) -> None:
    for decode in (wire.decode_trades, wire.decode_candles):
        with pytest.raises(MalformedMessage):
            decode({b"v": b"1", b"d": payload})


def test_an_absurdly_large_entry_is_malformed_before_it_is_decoded() -> None:
    """One of 50 MB, with 800,000 rows of which none was valid, took a consumer to 926 MiB."""
    payload = msgspec.msgpack.encode([b"x" * 60] * 800_000)

    for decode in (wire.decode_trades, wire.decode_trades_entry, wire.decode_candles):
        with pytest.raises(MalformedMessage, match=f"at most {wire.LARGEST_ENTRY} bytes, got {len(payload)}"):
            decode({b"v": b"1", b"d": payload})


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
    | st.datetimes() | st.datetimes(timezones=st.just(UTC)) | st.sampled_from(("NaN", "1e999999", "BTC/USDT")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(st.binary())
def test_any_payload_is_records_or_malformed(payload: bytes) -> None:
    decode_both({b"v": b"1", b"d": payload})


@given(st.dictionaries(st.sampled_from((b"v", b"d", b"x")), st.binary() | st.just(b"1")))
def test_any_fields_are_records_or_malformed(fields: dict[bytes, bytes]) -> None:
    decode_both(fields)


@settings(max_examples=300)
@given(st.sampled_from((ROW, CANDLE_ROW)), st.integers(0, 10), values)
def test_a_row_with_a_field_changed_is_a_record_or_malformed(row: list[Any], at: int, value: object) -> None:
    decode_both(entry([*row[:at], value, *row[at + 1 :]]))


def decode_both(fields: dict[bytes, bytes]) -> None:
    decoders: list[Any] = [wire.decode_trades, wire.decode_candles, lambda it: wire.decode_trades_entry(it).trades]
    for decode in decoders:
        try:
            records: list[Any] = decode(fields)
        except MalformedMessage:
            continue
        for record in records:
            assert record.timestamp.tzinfo is UTC
            assert record.symbol.isascii()
            assert record.symbol.isprintable()
            numbers = [getattr(record, f) for f in record.__struct_fields__]
            assert all(n.is_finite() and len(f"{n:f}") <= 200 for n in numbers if isinstance(n, Decimal))


# Streams


@pytest.mark.parametrize(
    ("symbol", "of_seven"), [("BTC/USDT", 6), ("ETH/USDT", 4), ("XRP/USDT", 6), ("XRP/BTC", 2), ("SOL/USDT", 3)]
)
def test_the_shard_of_a_symbol_never_changes(symbol: str, of_seven: int) -> None:
    assert wire.shard_of(symbol, 1) == 0
    assert wire.shard_of(symbol, 7) == of_seven


@given(st.text(min_size=1), st.integers(1, 64))
def test_every_symbol_has_a_shard(symbol: str, shards: int) -> None:
    assert 0 <= wire.shard_of(symbol, shards) < shards


def test_the_streams_of_a_shard_share_a_slot() -> None:
    assert wire.trades_stream(3) == "kraken:trades:{3}"
    assert wire.candles_stream(3) == "kraken:candles:{3}"


def test_a_stream_says_what_it_holds() -> None:
    assert wire.holds_candles(wire.candles_stream(0))
    assert not wire.holds_candles(wire.trades_stream(0))


def test_an_entry_is_as_small_as_it_can_be() -> None:
    """A guard on the format: it is part of the contract between versions, and is counted in megabytes a day."""
    fields = wire.encode([make_trade(1, datetime(2026, 1, 1, tzinfo=UTC))])

    assert fields[b"v"] == b"1"
    assert msgspec.msgpack.decode(fields[b"d"], type=list[tuple[Any, ...]]) == [
        (1, "BTC/USDT", datetime(2026, 1, 1, tzinfo=UTC), "100.0", "1.00000000", "buy", "limit", "")
    ]
