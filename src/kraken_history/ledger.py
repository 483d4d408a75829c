"""Sets of trade ids as ranges: the stored ids and the missing ids.

Kraken numbers the trades of each book without holes, so a hole inside the set of ids that we hold is
a missing trade. Nothing here does I/O.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise

IdRange = tuple[int, int]
"""Half-open: ``(start, stop)`` holds ``start`` … ``stop - 1``."""


class IdRanges:
    """An immutable set of integers, kept as sorted, disjoint, non-adjacent half-open ranges."""

    __slots__ = ("_ranges", "_starts")

    def __init__(self, ranges: Iterable[IdRange] = ()) -> None:
        self._ranges = tuple(_merged(sorted(r for r in ranges if r[0] < r[1])))
        self._starts = tuple(start for start, _ in self._ranges)

    @classmethod
    def of(cls, ids: Iterable[int]) -> "IdRanges":
        """The set of exactly these ids."""
        distinct = set(ids)
        if distinct and (high := max(distinct)) - (low := min(distinct)) + 1 == len(distinct):
            return cls([(low, high + 1)])  # mostly: trades come in order
        return cls((i, i + 1) for i in distinct)

    def __iter__(self) -> Iterator[IdRange]:
        return iter(self._ranges)

    def __len__(self) -> int:
        """How many ids (not ranges) the set holds."""
        return sum(stop - start for start, stop in self._ranges)

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdRanges) and self._ranges == other._ranges

    def __hash__(self) -> int:
        return hash(self._ranges)

    def __repr__(self) -> str:
        return f"IdRanges({list(self._ranges)!r})"

    def __contains__(self, id_: int) -> bool:
        at = bisect_right(self._starts, id_) - 1
        return at >= 0 and id_ < self._ranges[at][1]

    def __or__(self, other: "IdRanges") -> "IdRanges":
        return IdRanges((*self._ranges, *other._ranges))

    def __sub__(self, other: "IdRanges") -> "IdRanges":
        return self & other._complement(self)

    def __and__(self, other: "IdRanges") -> "IdRanges":
        shared, mine, theirs = [], iter(self._ranges), iter(other._ranges)
        a, b = next(mine, None), next(theirs, None)
        while a and b:
            shared.append((max(a[0], b[0]), min(a[1], b[1])))
            if a[1] <= b[1]:
                a = next(mine, None)
            else:
                b = next(theirs, None)
        return IdRanges(shared)

    @property
    def ranges(self) -> tuple[IdRange, ...]:
        """The ranges, in order. ``list`` of the set would take memory for as many ids as it holds."""
        return self._ranges

    @property
    def holes(self) -> "IdRanges":
        """The ids between the lowest and the highest that are not in the set."""
        return IdRanges((left[1], right[0]) for left, right in pairwise(self._ranges))

    def as_multirange(self) -> str:
        """The set as PostgreSQL writes an ``int8multirange``."""
        return "{" + ",".join(f"[{start},{stop})" for start, stop in self._ranges) + "}"

    def _complement(self, within: "IdRanges") -> "IdRanges":
        if not within:
            return within
        low, high = within._ranges[0][0], within._ranges[-1][1]
        edges = [low, *(edge for r in self._ranges for edge in r), high]
        return IdRanges(zip(edges[::2], edges[1::2], strict=True))


def _merged(ranges: Iterable[IdRange]) -> Iterator[IdRange]:
    """Join overlapping and adjacent ranges; the input is sorted."""
    open_start: int | None = None
    open_stop = 0
    for start, stop in ranges:
        if open_start is None:
            open_start, open_stop = start, stop
        elif start <= open_stop:
            open_stop = max(open_stop, stop)
        else:
            yield open_start, open_stop
            open_start, open_stop = start, stop
    if open_start is not None:
        yield open_start, open_stop


def neighbourhoods(holes: IdRanges, *, within: int) -> list[IdRange]:
    """Join holes that are fewer than ``within`` ids apart into one range each, as one pass over pages fills them."""
    runs: list[IdRange] = []
    for start, stop in holes:
        if runs and start - runs[-1][1] < within:
            runs[-1] = runs[-1][0], stop
        else:
            runs.append((start, stop))
    return runs
