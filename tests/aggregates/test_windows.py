"""Which windows are refreshed, without a database."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_history.intervals import MONDAY, bucket_end, bucket_start
from kraken_history.records import TimeRange
from kraken_history.storing.longer_intervals import AGGREGATES, Aggregate
from kraken_history.storing.windows import Window, halves, joined, removal, windows

HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)
NOON = datetime(2025, 11, 12, 12, tzinfo=UTC)  # a Wednesday


def between(start: datetime, end: datetime) -> TimeRange:
    return TimeRange(start, end)


def ranges(marked: list[TimeRange], width: timedelta, closed_until: datetime) -> list[TimeRange]:
    return [window.range for window in windows(marked, width, closed_until)]


def test_a_mark_is_widened_to_whole_buckets() -> None:
    assert ranges([between(NOON, NOON + HOUR)], 4 * HOUR, NOON + DAY) == [between(NOON, NOON + 4 * HOUR)]


def test_a_week_starts_on_monday() -> None:
    (week,) = ranges([between(NOON, NOON + HOUR)], WEEK, NOON + WEEK)

    assert (week.start, week.end) == (datetime(2025, 11, 10, tzinfo=UTC), datetime(2025, 11, 17, tzinfo=UTC))


def test_a_bucket_that_is_open_is_left_out() -> None:
    marked = [between(NOON, NOON + HOUR)]

    assert ranges(marked, HOUR, NOON + timedelta(minutes=59)) == []
    assert ranges(marked, timedelta(minutes=5), NOON + timedelta(minutes=23)) == [
        between(NOON, NOON + timedelta(minutes=20))
    ]


def test_near_windows_are_one_and_far_ones_are_not_and_the_oldest_is_first() -> None:
    marked = [between(NOON + n * HOUR, NOON + (n + 1) * HOUR) for n in (100, 0, 5)]

    assert ranges(marked, HOUR, NOON + WEEK) == [
        between(NOON, NOON + 6 * HOUR),
        between(NOON + 100 * HOUR, NOON + 101 * HOUR),
    ]


def test_of_a_mark_the_part_in_an_open_bucket_is_left() -> None:
    mark = between(NOON, NOON + HOUR)

    (window,) = windows([mark], timedelta(minutes=5), NOON + timedelta(minutes=23))

    assert window.marks == [mark]
    assert window.left == [between(NOON + timedelta(minutes=20), NOON + HOUR)]


def test_joined_windows_have_the_marks_of_all() -> None:
    marks = [between(NOON + n * DAY, NOON + n * DAY + HOUR) for n in range(3)]
    found = windows(marks, HOUR, NOON + WEEK)
    assert len(found) == 3

    assert joined(found) == Window(between(NOON, NOON + 2 * DAY + HOUR), marks, [])


def test_a_single_bucket_is_not_halved() -> None:
    (window,) = windows([between(NOON, NOON + HOUR)], DAY, NOON + WEEK)

    assert halves(window, DAY) is None


def covered(marks: Iterable[TimeRange]) -> set[datetime]:
    """The hours of marks that begin and end with one."""
    return {each.start + n * HOUR for each in marks for n in range((each.end - each.start) // HOUR)}


_hours = st.integers(0, 500).map(lambda n: NOON + n * HOUR)
_marks = st.tuples(_hours, _hours).filter(lambda pair: pair[0] < pair[1]).map(lambda pair: TimeRange(*pair))


@given(marked=st.lists(_marks, min_size=1, max_size=6), until=_hours, dies_between=st.booleans())
def test_after_both_halves_the_marks_are_those_after_the_whole(
    marked: list[TimeRange], until: datetime, dies_between: bool
) -> None:
    """Removed at once or one after the other; and in between, all that is not refreshed is marked."""
    for whole in windows(marked, HOUR, until):
        if (both := halves(whole, HOUR)) is None:
            continue
        stored = set(marked)
        for batch in [[each] for each in both] if dies_between else [both]:
            removed, left = removal(batch)
            stored = (stored - set(removed)) | set(left)
            assert covered(stored) == {
                hour for hour in covered(marked) if not whole.range.start <= hour < batch[-1].range.end
            }


_moments = st.integers(0, 200 * 1440).map(lambda n: NOON + timedelta(minutes=n))
_ranges = st.tuples(_moments, _moments).filter(lambda pair: pair[0] < pair[1]).map(lambda pair: TimeRange(*pair))


@pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda aggregate: aggregate.view)
@given(marked=st.lists(_ranges, max_size=6), closed_until=_moments)
def test_the_windows_are_whole_closed_buckets_that_hold_all_that_is_marked_and_closed(
    aggregate: Aggregate, marked: list[TimeRange], closed_until: datetime
) -> None:
    found = ranges(marked, aggregate.width, closed_until)

    assert all(window.end <= closed_until for window in found)
    assert all(bucket_start(edge, aggregate.width) == edge for window in found for edge in (window.start, window.end))
    assert all(a.end <= b.start for a, b in pairwise(found))
    for each in marked:
        bucket = bucket_start(each.start, aggregate.width)
        while bucket < each.end:
            is_closed = bucket + aggregate.width <= closed_until
            assert is_closed is any(window.start <= bucket < window.end for window in found)
            bucket += max(aggregate.width, (each.end - each.start) // 50 // aggregate.width * aggregate.width)


@given(moment=st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_bucket_holds_its_moment(moment: datetime) -> None:
    for aggregate in AGGREGATES:
        start, end = bucket_start(moment, aggregate.width), bucket_end(moment, aggregate.width)
        assert start <= moment <= end
        assert (start - MONDAY) % aggregate.width == (end - MONDAY) % aggregate.width == timedelta(0)
        assert end - start in (aggregate.width, timedelta(0))
