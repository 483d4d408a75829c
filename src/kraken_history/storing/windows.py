"""The windows that a refresh works through, computed from the marks of an interval."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from kraken_history.intervals import bucket_end, bucket_start
from kraken_history.records import TimeRange
from kraken_history.storing.stale_time import BRIDGED_BUCKETS


class Window(Struct, frozen=True):
    """Closed buckets that are refreshed together.

    Attributes:
        range: From the start of the first bucket to the end of the last.
        marks: The marks for which they are refreshed, as they are stored then.
        left: What is left of these marks afterwards: the part after the window.
    """

    range: TimeRange
    marks: Sequence[TimeRange]
    left: Sequence[TimeRange] = ()


def windows(marked: Iterable[TimeRange], width: timedelta, closed_until: datetime) -> list[Window]:
    """The windows to refresh: the marked buckets that are closed, near ones merged, oldest first."""
    end_of_closed = bucket_start(closed_until, width)
    merged: list[tuple[datetime, datetime, list[TimeRange]]] = []
    for each in sorted(marked):
        start = bucket_start(each.start, width)
        end = min(end_of_closed, bucket_end(each.end, width))
        if start >= end:
            continue
        if merged and start - merged[-1][1] <= BRIDGED_BUCKETS * width:
            first, last, marks = merged.pop()
            marks.append(each)
            merged.append((first, max(end, last), marks))
        else:
            merged.append((start, end, [each]))
    return [Window(TimeRange(start, end), marks, _after(marks, end)) for start, end, marks in merged]


def _after(marks: Iterable[TimeRange], moment: datetime) -> list[TimeRange]:
    """The parts of marks after a moment, each once."""
    parts = {TimeRange(max(each.start, moment), each.end): None for each in marks if each.end > moment}
    return list(parts)


def joined(near: Sequence[Window]) -> Window:
    """One window from the start of the first to the end of the last, which are in order."""
    whole = TimeRange(near[0].range.start, near[-1].range.end)
    return Window(whole, [mark for window in near for mark in window.marks], near[-1].left)


def halves(window: Window, width: timedelta) -> tuple[Window, Window] | None:
    """A window in two, the older one first; None if it is a single bucket. The second one takes up what the first left.

    Args:
        width: Of a bucket.
    """
    start, end = window.range.start, window.range.end
    middle = start + (end - start) // width // 2 * width
    if middle == start:
        return None
    before = [mark for mark in window.marks if mark.start < middle]
    after = [mark for mark in window.marks if mark.start >= middle]
    left = _after(before, middle)
    return (
        Window(TimeRange(start, middle), before, left),
        Window(TimeRange(middle, end), [*left, *after], window.left),
    )


def removal(refreshed: Sequence[Window]) -> tuple[list[TimeRange], list[TimeRange]]:
    """The marks to remove when consecutive windows were refreshed, oldest first, and those to put in their place."""
    marks = {mark: None for window in refreshed for mark in window.marks}
    return list(marks), [part for window in refreshed for part in window.left if part not in marks]
