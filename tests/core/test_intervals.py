"""Intervals, and the buckets of time that they cut."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_history.errors import InvalidRange, InvalidTime, UnknownInterval
from kraken_history.intervals import (
    LONGEST_INTERVAL,
    MONDAY,
    VIEWS,
    best_stored,
    bucket_end,
    bucket_start,
    checked_interval,
    closed_window,
    parse_interval,
    width_of,
)
from kraken_history.reading.candle_query import Query, buckets_of, windows_back
from tests.support.examples import moments

intervals = st.sampled_from(sorted(VIEWS)) | st.integers(1, LONGEST_INTERVAL)


@pytest.mark.parametrize(
    ("interval", "stored"),
    [(1, 1), (3, 1), (10, 5), (45, 15), (60, 60), (120, 60), (480, 240), (2880, 1440), (20160, 10080), (43_200, 1440)],
)
def test_the_longest_stored_interval_that_divides_is_the_source(interval: int, stored: int) -> None:
    assert best_stored(interval) == stored


@given(intervals, moments(), moments())
def test_the_closed_window_holds_exactly_the_buckets_between(interval: int, start: datetime, end: datetime) -> None:
    if start == end:
        return
    start, end = sorted((start, end))
    width = width_of(interval)

    opens, closes = closed_window(start, end, interval)

    assert (opens - MONDAY) % width == (closes - MONDAY) % width == timedelta(0)
    assert start <= opens < start + width
    assert opens <= closes
    assert closes == opens or end - width < closes <= end
    assert closes > opens or opens + width > end


@given(moments(), st.integers(-14 * 60, 14 * 60))
def test_the_zone_of_a_time_makes_no_difference(moment: datetime, offset: int) -> None:
    abroad = moment.astimezone(timezone(timedelta(minutes=offset)))

    assert closed_window(abroad, moment + timedelta(days=9), 60) == closed_window(
        moment, moment + timedelta(days=9), 60
    )


@pytest.mark.parametrize("interval", [0, -1, LONGEST_INTERVAL + 1, 1.0, "5", None, True])
def test_what_is_no_interval_is_refused(interval: Any) -> None:
    with pytest.raises(UnknownInterval, match="whole number of minutes from 1 to 525600"):
        checked_interval(interval)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("1", 1),
        ("60", 60),
        ("15m", 15),
        ("15min", 15),
        ("1h", 60),
        ("4H", 240),
        ("1d", 1440),
        ("1w", 10080),
        (" 2d ", 2880),
    ],
)
def test_an_interval_may_be_written_with_its_unit(text: str, minutes: int) -> None:
    assert parse_interval(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "-5", "1M", "h", "1.5h", "1 h", "1y", "9999999", "366d", "\u0661"])
def test_a_text_that_is_no_interval_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UnknownInterval, match="or an interval such as 15m, 1h, 4h, 1d or 1w, got"):
        parse_interval(text)


def test_ranges_that_hold_nothing_and_naive_times_are_refused() -> None:
    with pytest.raises(InvalidRange):
        closed_window(MONDAY, MONDAY, 5)
    with pytest.raises(InvalidTime, match="zone"):
        closed_window(MONDAY.replace(tzinfo=None), MONDAY, 5)


def test_extreme_times_are_kept_to_what_a_database_can_do_arithmetic_with() -> None:
    first, last = closed_window(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), LONGEST_INTERVAL)

    assert first.year in (1970, 1971)
    assert last.year in (8999, 9000)


@given(st.lists(st.tuples(moments(), st.timedeltas(timedelta(seconds=1), timedelta(days=9))), max_size=6), intervals)
def test_stale_buckets_hold_all_that_is_marked_and_nothing_twice(
    marked: list[tuple[datetime, timedelta]], interval: int
) -> None:
    width = width_of(interval)
    span = bucket_start(datetime(2014, 1, 1, tzinfo=UTC), width), bucket_end(datetime(2028, 1, 1, tzinfo=UTC), width)
    marks = [(start, start + length) for start, length in marked]

    found = buckets_of(marks, interval, span)

    assert all((edge - MONDAY) % width == timedelta(0) for each in found for edge in each)
    assert all(one[1] < other[0] for one, other in pairwise(found))
    for start, end in marks:
        low, high = max(start, span[0]), min(end, span[1])
        if low < high:
            assert any(each[0] <= low and high <= each[1] for each in found)


@given(moments(), st.timedeltas(timedelta(0), timedelta(days=4000)), st.integers(1, 500), intervals)
def test_windows_back_are_without_a_seam_down_to_the_oldest(
    newest: datetime, age: timedelta, count: int, interval: int
) -> None:
    width = width_of(interval)
    end, oldest = bucket_end(newest, width), newest - age

    windows = windows_back(end, oldest, count, width)

    assert [start for start, _ in windows[:-1]] == [stop for _, stop in windows[1:]]
    assert windows == [] or (windows[0][1], windows[-1][0]) == (end, bucket_start(oldest, width))
    assert len(windows) < 15 + windows_needed(end - oldest, count * width)


def windows_needed(age: timedelta, first: timedelta) -> int:
    """How often a window can grow fourfold."""
    return max(0, (age // first).bit_length())


def test_values_that_are_written_out_are_quoted() -> None:
    query = Query(literal=True)

    assert query.put("O'Neill/USD", "text") == "'O''Neill/USD'::text"
    assert query.put(MONDAY, "timestamptz") == "'2000-01-03 00:00:00+00:00'::timestamptz"
    assert query.arguments == []
