"""Candles are what their trades say."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from kraken_history.kraken.rest import decode_result, decode_trades_page
from kraken_history.records import HistoricalCandle, HistoricalTrade
from kraken_history.storing.candle_deltas import build_candles
from tests.support.examples import NOON, distinct_trades, make_trade

SPAN = timedelta(minutes=4)


def brute_force(trades: Iterable[HistoricalTrade]) -> list[HistoricalCandle]:
    """The candles of these trades, the slow and obvious way, in fractions."""
    minutes: dict[tuple[str, datetime], list[HistoricalTrade]] = {}
    for trade in sorted(trades, key=lambda t: t.id):
        minute = trade.timestamp - timedelta(seconds=trade.timestamp.second, microseconds=trade.timestamp.microsecond)
        minutes.setdefault((trade.symbol, minute), []).append(trade)
    candles = []
    for (symbol, minute), group in sorted(minutes.items()):
        prices = [trade.price for trade in group]
        volume = sum(Fraction(trade.volume) for trade in group)
        quote = sum(Fraction(trade.price) * Fraction(trade.volume) for trade in group)
        vwap = Fraction(quote * 10**10 // volume, 10**10)
        candles.append(
            HistoricalCandle(
                symbol, minute, 1, prices[0], max(prices), min(prices), prices[-1], exact(volume), exact(quote),
                len(group), exact(vwap), "trades",
            )
        )  # fmt: skip
    return candles


def exact(fraction: Fraction | int) -> Decimal:
    """A fraction whose denominator divides a power of ten, as the Decimal that it is."""
    places = 30
    scaled = fraction * 10**places
    assert scaled.denominator == 1
    return Decimal((0, tuple(map(int, str(scaled.numerator))), -places))


@given(distinct_trades(span=SPAN))
def test_built_candles_are_those_of_brute_force(trades: list[HistoricalTrade]) -> None:
    assert build_candles(trades) == brute_force(trades)


@given(distinct_trades(span=SPAN, most=12).flatmap(lambda trades: st.tuples(st.just(trades), st.permutations(trades))))
def test_the_order_of_trades_changes_no_candle(orders: tuple[list[HistoricalTrade], list[HistoricalTrade]]) -> None:
    given_order, other_order = orders

    assert build_candles(other_order) == build_candles(given_order)


def test_open_and_close_belong_to_the_lowest_and_the_highest_id_not_to_the_earliest_time() -> None:
    late_but_lowest = make_trade(1, NOON + timedelta(seconds=30), "10")
    early_but_highest = make_trade(3, NOON, "30")

    (candle,) = build_candles([make_trade(2, NOON + timedelta(seconds=10), "20"), early_but_highest, late_but_lowest])

    assert (candle.open, candle.close) == (Decimal(10), Decimal(30))


def test_minutes_without_trades_have_no_candle() -> None:
    trades = [make_trade(1, NOON), make_trade(2, NOON + timedelta(minutes=5))]

    assert [candle.timestamp for candle in build_candles(trades)] == [NOON, NOON + timedelta(minutes=5)]


def test_the_last_microsecond_belongs_to_its_minute() -> None:
    trades = [make_trade(1, NOON - timedelta(microseconds=1)), make_trade(2, NOON)]

    assert [candle.timestamp for candle in build_candles(trades)] == [NOON - timedelta(minutes=1), NOON]


def test_sums_keep_every_digit_however_many() -> None:
    large, small = "123456789012345678.123456789", "0.000000000000000001"

    (candle,) = build_candles([make_trade(1, volume=large, price="1E-8"), make_trade(2, volume=small, price="1E-8")])

    assert candle.volume == Decimal("123456789012345678.123456789000000001")
    assert candle.quote_volume == Decimal("1234567890.12345678123456789000000001")


def test_no_trades_make_no_candles() -> None:
    assert build_candles([]) == []


def test_the_recorded_trades_make_krakens_own_candles(recordings: Path) -> None:
    body = (recordings / "rest/trades_xbtusdt_2025-11-10.json").read_bytes()
    page = decode_trades_page(decode_result(200, body), "BTC/USDT", since=0)
    answer = json.loads((recordings / "rest/ohlc_xbtusdt_1m_2025-11-10.json").read_bytes())
    theirs = {datetime.fromtimestamp(row[0], tz=UTC): row[1:] for row in answer["result"]["XBTUSDT"] if row[7]}

    # The page begins within a minute, of which it has only a part; its last minute ends with its last trade.
    whole = build_candles(page.trades)[1:]
    compared = [candle for candle in whole if candle.timestamp in theirs]

    assert len(compared) == 273 == len(whole)
    for candle in compared:
        open_, high, low, close, vwap, volume, count = theirs[candle.timestamp]
        assert [candle.open, candle.high, candle.low, candle.close] == [*map(Decimal, (open_, high, low, close))]
        assert (candle.volume, candle.trade_count) == (Decimal(volume), count)
        assert candle.vwap.quantize(Decimal(vwap), rounding=ROUND_DOWN) == Decimal(vwap)


def test_a_candle_survives_messagepack() -> None:
    (candle,) = build_candles([make_trade(1)])

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(candle), type=HistoricalCandle) == candle
