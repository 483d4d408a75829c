"""Runs of ids that are not stored, between the stored ones, and what a write leaves of them. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise

from msgspec import Struct

from kraken_history.ledger import IdRange, IdRanges


class Unheld(Struct, frozen=True):
    """Consecutive ids, ``[first, stop)``, that are not stored, between two stored trades.

    Attributes:
        after: Time of the trade before them, whose id is ``first - 1``; None if it is not known.
        before: Time of the trade after them, whose id is ``stop``; None if it is not known.
    """

    first: int
    stop: int
    after: datetime | None
    before: datetime | None


class Run(Struct, frozen=True):
    """Consecutive stored ids, from ``low`` to ``high``, both included, and the times of these two trades."""

    low: int
    high: int
    low_time: datetime | None
    high_time: datetime | None


class Change(Struct, frozen=True):
    """What new ids change in a ledger.

    Attributes:
        gone: Runs of unheld ids that are no longer such runs.
        added: Those that are left of them, or that are new because the ledger became longer.
        lowest, highest: Its ends, each with the time of its trade.
    """

    gone: Sequence[Unheld]
    added: Sequence[Unheld]
    lowest: tuple[int, datetime | None]
    highest: tuple[int, datetime | None]


def runs_of(moments: Iterable[tuple[int, datetime]]) -> list[Run]:
    """The runs of consecutive ids among these, each given with its time; a repeated id counts once."""
    times = dict(moments)
    return [Run(first, stop - 1, times[first], times[stop - 1]) for first, stop in IdRanges.of(times)]


def extended(ends: Run | None, unheld: Sequence[Unheld], new: Sequence[Run]) -> Change:
    """What the ledger becomes with these new ids.

    Args:
        ends: The lowest and the highest id that it holds; None if it holds none.
        unheld: The runs of unheld ids that the new ids touch.
        new: Runs of ids that it does not hold, at least one, in order.
    """
    if ends is None:
        return Change([], _between(new), (new[0].low, new[0].low_time), (new[-1].high, new[-1].high_time))
    low_end = Run(ends.low, ends.low, ends.low_time, ends.low_time)
    high_end = Run(ends.high, ends.high, ends.high_time, ends.high_time)
    below = [run for run in new if run.high < ends.low]
    above = [run for run in new if run.low > ends.high]
    gone: list[Unheld] = []
    added = _between([*below, low_end])
    for each in unheld:
        inside = [run for run in new if each.first <= run.low and run.high < each.stop]
        if inside:
            gone.append(each)
            before = Run(each.first - 1, each.first - 1, each.after, each.after)
            after = Run(each.stop, each.stop, each.before, each.before)
            added += _between([before, *inside, after])
    added += _between([high_end, *above])
    lowest = (below[0].low, below[0].low_time) if below else (ends.low, ends.low_time)
    highest = (above[-1].high, above[-1].high_time) if above else (ends.high, ends.high_time)
    return Change(gone, added, lowest, highest)


def _between(runs: Sequence[Run]) -> list[Unheld]:
    return [
        Unheld(left.high + 1, right.low, left.high_time, right.low_time)
        for left, right in pairwise(runs)
        if right.low - left.high > 1
    ]


def held_within(ids: Iterable[IdRange], ends: Run | None, unheld: Iterable[Unheld]) -> IdRanges:
    """Those of the ids that a ledger holds, of which the runs of unheld ids that touch them are given."""
    if ends is None:
        return IdRanges()
    within = IdRanges(ids) & IdRanges([(ends.low, ends.high + 1)])
    return within - IdRanges((each.first, each.stop) for each in unheld)
