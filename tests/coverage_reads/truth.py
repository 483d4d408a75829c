"""What is known of each slot of ten seconds, decided one by one from all that is stored."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from msgspec import Struct

from kraken_history.reading.coverage import Coverage
from kraken_history.reading.kinds import CoverageKind
from kraken_history.records import MINUTE, TimeRange, floor_minute
from tests.support.examples import NOON

SLOT = timedelta(seconds=10)


def at(slot: int) -> datetime:
    """The start of a slot."""
    return NOON + slot * SLOT


class Known(Struct, frozen=True):
    """All that bears on one symbol.

    Attributes:
        trades: The slot of each trade that was stored, by id; times follow ids.
        absent: Ids that are proven absent.
        asked: Slots that ``time_ranges`` of the trades holds.
        given: Slots that ``time_ranges`` of the candles holds.
        gone: Slots whose candles were dropped once.
        sources: By minute, the source of its candle.
    """

    trades: Mapping[int, int]
    absent: Collection[int]
    asked: Collection[int]
    given: Collection[int]
    gone: Collection[int]
    sources: Mapping[datetime, str]

    def kind(self, slot: int) -> CoverageKind:
        """What is known of a slot."""
        source = self.sources.get(floor_minute(at(slot)))
        if slot in self.gone:
            return "missing"
        if source == "csv":
            return "exchange"
        if source == "trades":
            return "proven" if self._is_covered(slot) else "missing"
        if not self._is_covered(slot) and slot not in self.given:
            return "missing"
        return "exchange" if source == "ohlc" else "quiet"

    def _is_covered(self, slot: int) -> bool:
        slots = self.trades.values()
        is_between = bool(slots) and min(slots) <= slot < max(slots)
        return (is_between or slot in self.asked) and not self._is_in_a_hole(slot)

    def _is_in_a_hole(self, slot: int) -> bool:
        for id_ in range(min(self.trades, default=0), max(self.trades, default=0)):
            if id_ not in self.trades and id_ not in self.absent:
                before = self.trades[max(known for known in self.trades if known < id_)]
                after = self.trades[min(known for known in self.trades if known > id_)]
                if floor_minute(at(before)) <= at(slot) < floor_minute(at(after)) + MINUTE:
                    return True
        return False


def slots_of(coverage: Coverage, first: int, last: int) -> list[CoverageKind]:
    """The kind of each slot, of spans that are what they promise."""
    bounds = [(span.start, span.end) for span in coverage.spans]
    assert (bounds[0][0], bounds[-1][1]) == (coverage.start, coverage.end) == (at(first), at(last))
    assert [end for _, end in bounds[:-1]] == [start for start, _ in bounds[1:]]
    kinds = [span.kind for span in coverage.spans]
    assert all(kind != following for kind, following in pairwise(kinds))
    return [
        next(span.kind for span in coverage.spans if span.start <= at(slot) < span.end) for slot in range(first, last)
    ]


def ranges_of(slots: Collection[int]) -> Sequence[TimeRange]:
    """The time of slots, each its own range."""
    return [TimeRange(at(slot), at(slot + 1)) for slot in sorted(slots)]
