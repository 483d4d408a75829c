"""Numbers and times are written as Kraken writes them."""

import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_history.records import utc_from_unix_ns
from simulator.notation import fixed, microsecond_time, nanosecond_time, normalized, rest_time, units_of


@given(st.integers(0, 10**24), st.integers(0, 12))
def test_fixed_and_normalized_text_mean_the_same_number_as_decimal(units: int, decimals: int) -> None:
    number = Decimal(units).scaleb(-decimals)

    assert Decimal(fixed(units, decimals)) == number
    assert normalized(units, decimals) == f"{number.normalize():f}"
    assert units_of(number, decimals) == units


@pytest.mark.parametrize("text", ["1.23456", "NaN", "Infinity"])
def test_a_number_that_is_not_whole_in_these_units_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"decimals|finite number"):
        units_of(Decimal(text), 4)


def test_times_are_cut_and_not_rounded() -> None:
    assert microsecond_time(1_790_358_506_844_359_999) == "2026-09-25T17:48:26.844359Z"
    assert nanosecond_time(1_790_358_506_844_359_566) == "2026-09-25T17:48:26.844359566Z"


def test_rest_times_are_printed_as_recorded(recordings: Path) -> None:
    page = json.loads((recordings / "rest/trades_xbtusdt_2025-11-10.json").read_bytes(), parse_float=str)["result"]

    assert repr(rest_time(int(page["last"]))) == page["XBTUSDT"][-1][2]
    for row in page["XBTUSDT"]:
        assert repr(rest_time(units_of(Decimal(row[2]), 9))) == row[2]


@given(st.integers(1_400_000_000 * 10**9, 2_000_000_000 * 10**9))
def test_rest_and_websocket_times_of_a_trade_differ_by_at_most_about_a_microsecond(time_ns: int) -> None:
    over_rest = Decimal(repr(rest_time(time_ns)))
    over_websocket = units_of(
        Decimal((utc_from_unix_ns(time_ns) - utc_from_unix_ns(0)) // timedelta(microseconds=1)), 0
    )

    assert abs(over_rest * 10**6 - over_websocket) <= Decimal("1.2")
