"""The kind of each moment, computed day by day from covered time and from the maps of the minutes with candles. Pure.

If covered time begins or ends inside a minute, the parts of the minute are classified separately. Of a candle built
from trades, only the covered part is proven, because the candle may lack trades of the other part. A candle of a minute
that has not ended is incomplete. If the exchange sent a candle while the minute ran, and no later version, it may be
incomplete too. It counts only if Kraken was asked for the minute since, or no trade is missing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Literal, get_args

from msgspec import Struct

from kraken_history.completeness.hole_search import DAY
from kraken_history.completeness.minute_maps import FULL, MINUTES, NO_CANDLES, MinuteMap
from kraken_history.intervals import Span, bucket_start
from kraken_history.records import MINUTE

CoverageKind = Literal["proven", "exchange", "quiet", "missing"]
"""How a range of time is covered.

``proven``: its trades are stored, and their ids prove that none is missing. ``exchange``: its candles are complete
candles of the exchange, or of a download. ``quiet``: covered, and nobody traded. ``missing``: all other time.
"""

KINDS: tuple[CoverageKind, ...] = get_args(CoverageKind)

Part = tuple[datetime, datetime, CoverageKind]
"""Start, end and kind of a range of time."""


class Evidence(Struct, frozen=True):
    """All that decides about the kinds of the time ``asked``. The spans of each are in order, without overlaps.

    Attributes:
        kept: The time whose one-minute candles were never dropped.
        by_trades: The time that trades cover, without the holes in their ids.
        by_candles: The time that candles cover.
        by_longer: The time that candles without minutes cover, for reads of their interval.
        maps: By day. A day that is left out has no candles.
        now: When this was read, by the clock of the database.
    """

    asked: Span
    kept: Sequence[Span]
    by_trades: Sequence[Span]
    by_candles: Sequence[Span]
    by_longer: Sequence[Span]
    maps: Mapping[datetime, MinuteMap]
    now: datetime


class DayKinds(Struct, frozen=True, gc=False):
    """The kinds of a day.

    Attributes:
        masks: For each of :data:`KINDS`, the whole minutes of that kind.
        parts: The kinds within the minutes that are of several kinds, or asked about in part; in order.
    """

    day: datetime
    masks: tuple[int, int, int, int]
    parts: Sequence[Part] = ()


def classify_days(evidence: Evidence) -> Iterator[DayKinds]:
    """The kinds of each day that was asked about, in order."""
    relations = [_Spans(spans) for spans in (
        [evidence.asked], evidence.kept, evidence.by_trades, evidence.by_candles, evidence.by_longer,
    )]  # fmt: skip
    ended = _Spans([(evidence.asked[0] - DAY, bucket_start(evidence.now, MINUTE))])
    day = bucket_start(evidence.asked[0], DAY)
    while day < evidence.asked[1]:
        within = [each.of_day(day) for each in relations]
        is_ended = ended.of_day(day).mask
        yield _classify(day, evidence.maps.get(day, NO_CANDLES), is_ended, within)
        day += DAY


class _Within(Struct, frozen=True, gc=False):
    """The parts of a day that belong to some spans.

    Attributes:
        mask: The minutes that wholly belong to one of them.
        cut: Numbers of the minutes inside which one begins or ends.
    """

    mask: int
    cut: Sequence[int] = ()
    spans: Sequence[Span] = ()


_ALL, _NONE = _Within(FULL), _Within(0)


class _Spans:
    """Spans in order, asked about day by day, in order."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans
        self._at = 0  # the first span that does not end before the day

    def of_day(self, day: datetime) -> _Within:
        spans, end, at = self._spans, day + DAY, self._at
        while at < len(spans) and spans[at][1] <= day:
            at += 1
        self._at = at
        if at == len(spans) or spans[at][0] >= end:
            return _NONE
        if spans[at][0] <= day and spans[at][1] >= end:
            return _ALL
        mask, cut, its = 0, list[int](), list[Span]()
        while at < len(spans) and spans[at][0] < end:
            low, high = max(spans[at][0], day), min(spans[at][1], end)
            its.append((low, high))
            (first, rest), (last, more) = divmod(low - day, MINUTE), divmod(high - day, MINUTE)
            cut += [minute for minute, left in ((first, rest), (last, more)) if left]
            first += bool(rest)
            if first < last:
                mask |= (1 << (MINUTES - first)) - (1 << (MINUTES - last))
            at += 1
        return _Within(mask, cut, its)


def _classify(day: datetime, candles: MinuteMap, ended: int, within: Sequence[_Within]) -> DayKinds:
    asked, kept, trades, given, longer = (each.mask for each in within)
    stored = candles.built | candles.sent | candles.imported
    sent, imported = candles.sent & ended, candles.imported & ended
    known, covered = asked & kept, trades | given
    proven = known & trades & candles.built
    exchange = known & (sent & covered | imported)
    quiet = known & covered & ~stored
    exchange |= asked & longer & ~(proven | quiet)
    cut = sorted({minute for each in within for minute in each.cut})
    if not cut:
        return DayKinds(day, (proven, exchange, quiet, asked & ~(proven | exchange | quiet)))
    parts: list[Part] = []
    for minute in cut:
        bit = 1 << (MINUTES - 1 - minute)
        flags = tuple(bool(mask & bit) for mask in (candles.built, sent, imported, stored))
        parts += _parts_of_minute(day + minute * MINUTE, flags, within)
    whole = ~sum(1 << (MINUTES - 1 - minute) for minute in cut)
    missing = asked & ~(proven | exchange | quiet)
    return DayKinds(day, (proven & whole, exchange & whole, quiet & whole, missing & whole), parts)


def _parts_of_minute(minute: datetime, flags: Sequence[bool], within: Sequence[_Within]) -> list[Part]:
    end = minute + MINUTE
    edges = {minute, end}
    for each in within:
        edges.update(moment for span in each.spans for moment in span if minute < moment < end)
    bounds = sorted(edges)
    parts: list[Part] = []
    for low, high in pairwise(bounds):
        asked, kept, trades, given, longer = (_holds(each, low) for each in within)
        if not asked:
            continue
        kind = _kind(flags, is_kept=kept, by_trades=trades, by_candles=given, by_longer=longer)
        start = parts.pop()[0] if parts and parts[-1][1:] == (low, kind) else low
        parts.append((start, high, kind))
    return parts


def _holds(within: _Within, moment: datetime) -> bool:
    return within is _ALL or any(low <= moment < high for low, high in within.spans)


def _kind(flags: Sequence[bool], *, is_kept: bool, by_trades: bool, by_candles: bool, by_longer: bool) -> CoverageKind:
    is_built, is_sent, is_imported, is_stored = flags
    if is_kept:
        if by_trades and is_built:
            return "proven"
        if is_imported or (is_sent and (by_trades or by_candles)):
            return "exchange"
        if (by_trades or by_candles) and not is_stored:
            return "quiet"
    return "exchange" if by_longer else "missing"


_OFFSETS = [n * MINUTE for n in range(MINUTES + 1)]
_RUN = re.compile("1+")


def parts_of(days: Iterable[DayKinds]) -> Iterator[Part]:
    """The ranges of each kind, in order. None touches another of its kind."""
    last: Part | None = None
    for each in days:
        for part in _parts_of_day(each):
            if last is not None and last[2] == part[2] and last[1] == part[0]:
                last = (last[0], part[1], part[2])
                continue
            if last is not None:
                yield last
            last = part
    if last is not None:
        yield last


def ranges_of(days: Iterable[DayKinds], kinds: Sequence[CoverageKind]) -> Iterator[Span]:
    """The ranges that are of one of these kinds, in order. None touches another."""
    wanted = [KINDS.index(kind) for kind in kinds]
    merged = (
        DayKinds(
            each.day,
            (reduce(or_, (each.masks[n] for n in wanted)), 0, 0, 0),
            [(low, high, "proven") for low, high, kind in each.parts if kind in kinds],
        )
        for each in days
    )
    return ((low, high) for low, high, _ in parts_of(merged))


def _parts_of_day(each: DayKinds) -> list[Part]:
    day = each.day
    for mask, kind in zip(each.masks, KINDS, strict=True):
        if mask == FULL:
            return [(day, day + DAY, kind)]
    runs = [
        (*run.span(), kind)
        for mask, kind in zip(each.masks, KINDS, strict=True)
        if mask
        for run in _RUN.finditer(f"{mask:0{MINUTES}b}")
    ]
    runs.sort()
    found: list[Part] = [(day + _OFFSETS[first], day + _OFFSETS[last], kind) for first, last, kind in runs]
    return sorted([*found, *each.parts]) if each.parts else found


def count_minutes(mask: int, first: int = 0, last: int = MINUTES) -> int:
    """How many of the minutes ``first`` up to, and not including, ``last`` of a day are in the mask."""
    if first == 0 and last == MINUTES:
        return mask.bit_count()
    return (mask >> (MINUTES - last) & ((1 << (last - first)) - 1)).bit_count()


Durations = dict[CoverageKind, timedelta]
"""The time of each kind."""


def durations(days: Iterable[DayKinds], resolution: timedelta) -> dict[datetime, Durations]:
    """By the start of each bucket that was asked about, in order: the time of each kind in it.

    Args:
        resolution: Width of a bucket, in whole minutes. Buckets are aligned as those of candles are.
    """
    found: dict[datetime, Durations] = {}
    for each in days:
        bucket = bucket_start(each.day, resolution)
        while bucket < each.day + DAY:
            end = bucket + resolution
            first, last = max(bucket - each.day, timedelta()) // MINUTE, min(end - each.day, DAY) // MINUTE
            counts = [count_minutes(mask, first, last) for mask in each.masks]
            parts = [part for part in each.parts if bucket <= part[0] < end]
            if any(counts) or parts:
                total = found.setdefault(bucket, dict.fromkeys(KINDS, timedelta()))
                for kind, count in zip(KINDS, counts, strict=True):
                    total[kind] += count * MINUTE
                for low, high, kind in parts:
                    total[kind] += high - low
            bucket = end
    return found
