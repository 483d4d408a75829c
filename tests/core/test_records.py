"""The nouns: what they are once built, and what cannot be built."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, localcontext

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_history.records import (
    EXACT,
    VWAP_DECIMALS,
    CandleSource,
    DataGap,
    ExternalIndicator,
    HistoricalCandle,
    HistoricalTrade,
    MadeUpCandle,
    TimeRange,
    floor_minute,
    group_by_symbol,
    truncated_vwap,
    utc_from_unix_ns,
)
from tests.support.examples import NOON, SYMBOLS, decimals, digits, make_candle, make_trade, moments


def test_a_trade_keeps_every_digit_it_was_given() -> None:
    trade = make_trade(7, price="0.00044780", volume="123456789012345678.123456789")

    assert digits(trade)[3:5] == ("0.00044780", "123456789012345678.123456789")


@pytest.mark.parametrize("record", [make_trade(1), make_candle(), TimeRange(NOON, NOON + timedelta(1))])
def test_records_are_frozen(record: msgspec.Struct) -> None:
    with pytest.raises(AttributeError):
        setattr(record, record.__struct_fields__[0], "other")


def test_records_have_the_fields_that_the_specification_names() -> None:
    assert HistoricalTrade.__struct_fields__ == (
        "id", "symbol", "timestamp", "price", "volume", "side", "order_type", "misc",
    )  # fmt: skip
    assert HistoricalCandle.__struct_fields__ == (
        "symbol", "timestamp", "interval_minutes", "open", "high", "low", "close", "volume", "quote_volume",
        "trade_count", "vwap", "source",
    )  # fmt: skip
    assert ExternalIndicator.__struct_fields__ == ("timestamp", "indicator_name", "value", "source")
    assert DataGap.__struct_fields__ == ("symbol", "data_type", "start_time", "end_time", "duration")


@pytest.mark.parametrize(("source", "is_approximate"), [("ohlc", True), ("csv", True), ("trades", False)])
def test_only_the_vwap_of_trades_is_exact(source: CandleSource, is_approximate: bool) -> None:
    assert make_candle(source=source).vwap_is_approximate is is_approximate


def test_a_made_up_candle_vouches_for_nothing() -> None:
    assert MadeUpCandle.after(make_candle(source="trades"), NOON).source == "ohlc"


def test_a_candle_knows_its_typical_price_and_its_range() -> None:
    candle = make_candle(close="105.0")

    assert candle.typical_price == (Decimal("102.0") + Decimal("99.0") + Decimal("105.0")) / 3
    assert candle.range == Decimal("3.0")


def test_a_time_range_is_half_open_and_knows_its_duration() -> None:
    assert TimeRange(NOON, NOON + timedelta(minutes=90)).duration == timedelta(minutes=90)


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (NOON, NOON, "start < end"),
        (NOON, NOON - timedelta(microseconds=1), "start < end"),
        (NOON.replace(tzinfo=None), NOON + timedelta(1), "aware"),
        (NOON, (NOON + timedelta(1)).replace(tzinfo=None), "aware"),
    ],
)
def test_a_time_range_that_makes_no_sense_cannot_be_built(start: datetime, end: datetime, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TimeRange(start, end)


def test_time_ranges_sort_by_their_start() -> None:
    early, late = TimeRange(NOON, NOON + timedelta(3)), TimeRange(NOON + timedelta(1), NOON + timedelta(2))

    assert sorted([late, early]) == [early, late]


def test_a_gap_agrees_with_its_bounds() -> None:
    gap = DataGap.between("BTC/USDT", "trades", NOON, NOON + timedelta(minutes=5, seconds=59))

    assert gap.duration == timedelta(minutes=5, seconds=59)
    assert gap.candles_needed == 5


@pytest.mark.parametrize(
    ("duration", "small"),
    [
        (timedelta(0), True),
        (timedelta(hours=12) - timedelta(microseconds=1), True),
        (timedelta(hours=12), False),
        (timedelta(days=3), False),
    ],
)
def test_a_gap_is_small_under_twelve_hours(duration: timedelta, small: bool) -> None:
    assert DataGap.between("BTC/USDT", "candles_1m", NOON, NOON + duration).is_small is small


@pytest.mark.parametrize(
    ("quote_volume", "volume", "vwap"),
    [
        ("200", "3", "66.6666666666"),
        ("2", "3", "0.6666666666"),
        ("105433.6", "1", "105433.6"),
        ("0.00000000019", "1", "0.0000000001"),
        ("0.00000000009", "1", "0"),
        ("5", "0", "0"),
        ("0", "0.00000000", "0"),
        ("123456789012345678901234567890.12345678905", "1", "123456789012345678901234567890.1234567890"),
    ],
)
def test_a_vwap_is_cut_not_rounded(quote_volume: str, volume: str, vwap: str) -> None:
    assert truncated_vwap(Decimal(quote_volume), Decimal(volume)) == Decimal(vwap)


@given(decimals(), decimals())
def test_a_vwap_is_the_greatest_of_its_decimals_that_is_not_too_much(quote_volume: Decimal, volume: Decimal) -> None:
    vwap = truncated_vwap(quote_volume, volume)

    with localcontext(EXACT):
        assert vwap * volume <= quote_volume < (vwap + Decimal(1).scaleb(-VWAP_DECIMALS)) * volume


@given(moments())
def test_a_minute_is_where_its_last_microsecond_belongs(moment: datetime) -> None:
    minute = floor_minute(moment)

    assert minute <= moment < minute + timedelta(minutes=1)
    assert minute.timestamp() % 60 == 0


@pytest.mark.parametrize(
    ("nanoseconds", "time"),
    [
        (1762820035982277754, datetime(2025, 11, 11, 0, 13, 55, 982277, tzinfo=UTC)),
        (1762820035982277999, datetime(2025, 11, 11, 0, 13, 55, 982277, tzinfo=UTC)),
        (1762820035999999999, datetime(2025, 11, 11, 0, 13, 55, 999999, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_unix_time_in_nanoseconds_is_cut_to_microseconds(nanoseconds: int, time: datetime) -> None:
    assert utc_from_unix_ns(nanoseconds) == time
    assert utc_from_unix_ns(nanoseconds).tzinfo is UTC


@given(st.integers(0, 4 * 10**18))
def test_cutting_a_unix_time_loses_less_than_a_microsecond(nanoseconds: int) -> None:
    since_1970 = utc_from_unix_ns(nanoseconds) - datetime(1970, 1, 1, tzinfo=UTC)

    assert since_1970 // timedelta(microseconds=1) == nanoseconds // 1000


@pytest.mark.parametrize("nanoseconds", [10**26, 67768036191676800 * 10**9, 10**300, -(10**26)])
def test_a_unix_time_outside_of_the_calendar_overflows(nanoseconds: int) -> None:
    """Found by fuzzing REST pages: some such times were an OSError, which reads like a network that failed."""
    with pytest.raises(OverflowError):
        utc_from_unix_ns(nanoseconds)


def test_a_trade_without_a_time_zone_is_refused_where_it_is_decoded() -> None:
    naive = msgspec.to_builtins(make_trade(1), builtin_types=(datetime, Decimal))
    naive = [*naive[:2], NOON.replace(tzinfo=None), *naive[3:]]

    with pytest.raises(msgspec.ValidationError, match="timezone"):
        msgspec.convert(naive, HistoricalTrade)


def test_the_time_of_another_zone_is_the_same_instant() -> None:
    there = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))

    assert floor_minute(there) == NOON


def test_records_are_grouped_by_symbol_in_their_order() -> None:
    btc, eth = SYMBOLS[:2]
    first, other, second = make_trade(9, symbol=btc), make_trade(1, symbol=eth), make_trade(3, symbol=btc)

    assert group_by_symbol([first, other, second]) == {btc: [first, second], eth: [other]}
    assert group_by_symbol([make_candle(symbol=eth)]) == {eth: [make_candle(symbol=eth)]}
