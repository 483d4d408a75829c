"""How much of a long history is covered, by day and in total, and where it is missing, in whole seconds.

The kinds are those of :mod:`~kraken_history.reading.coverage`. A second that is missing in part counts as missing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import Struct

from kraken_history.completeness.hole_search import DAY
from kraken_history.completeness.minute_maps import MinuteMap, read_maps
from kraken_history.database.connections import Connection
from kraken_history.intervals import Span, bucket_end, bucket_start
from kraken_history.reading.coverage import read_covered, read_evidence
from kraken_history.reading.kinds import KINDS, CoverageKind, DayKinds, Evidence, Part, classify_days, parts_of
from kraken_history.reading.live_edge import without
from kraken_history.records import MINUTE, TimeRange

_SECOND = timedelta(seconds=1)

Seconds = dict[CoverageKind, int]
"""Seconds of each kind."""


class MeasuredCoverage(Struct, frozen=True):
    """The coverage of ``[start, end)``, in whole seconds.

    Attributes:
        days: By day in UTC, in order: seconds of each kind within the range. They add up to the day's part of it.
        missing: The missing ranges, oldest first. None touches the one before it, unless only one of them was dropped.
        dropped: The part of the missing time whose one-minute candles retention dropped. Nothing brings it back.
    """

    symbol: str
    start: datetime
    end: datetime
    days: Mapping[datetime, Seconds]
    missing: Sequence[TimeRange]
    dropped: Sequence[TimeRange]

    @property
    def totals(self) -> Seconds:
        """Seconds of each kind. They add up to the range."""
        return {kind: sum(day[kind] for day in self.days.values()) for kind in KINDS}


async def measure_coverage(
    connection: Connection, symbol: str, start: datetime, end: datetime, interval: int = 1
) -> MeasuredCoverage:
    """The coverage of a stored symbol, as of one moment, for candles of this interval, in minutes.

    Args:
        start, end: In whole seconds, UTC.
    """
    span = (start, end)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        evidence = await read_evidence(connection, symbol, span, interval=interval)
    dropped = await _find_dropped(connection, span)
    days = list(classify_days(_kept_of(evidence, dropped)))
    left = without(dropped, evidence.by_longer)
    return MeasuredCoverage(
        symbol,
        start,
        end,
        {each.day: _seconds_of(each, span) for each in days},
        _missing(span, days, left),
        [TimeRange(*each) for each in left],
    )


async def find_missing(connection: Connection, symbol: str, start: datetime, end: datetime) -> list[TimeRange]:
    """The missing ranges of ``[start, end)``, as :func:`measure_coverage` finds them.

    Candles are looked at only where the ledger proves nothing.

    Args:
        start, end: In whole seconds, UTC.
    """
    span = (start, end)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        evidence = await read_covered(connection, symbol, span)
        # In all other time nothing is missing, whatever candles there are.
        minute = bucket_start(evidence.now, MINUTE)
        doubtful = [*without([span], evidence.by_trades), *_overlap((minute, minute + MINUTE), span)]
        maps: dict[datetime, MinuteMap] = {}
        for days in _joined_days(doubtful):
            maps.update(await read_maps(connection, symbol, days))
    dropped = await _find_dropped(connection, span)
    evidence = _kept_of(msgspec.structs.replace(evidence, maps=maps), dropped)
    return _missing(span, classify_days(evidence), dropped)


def _overlap(first: Span, second: Span) -> list[Span]:
    low, high = max(first[0], second[0]), min(first[1], second[1])
    return [(low, high)] if low < high else []


def _joined_days(spans: Iterable[Span]) -> list[Span]:
    """The whole days that the spans touch, in order, with neighbours joined."""
    joined: list[Span] = []
    for low, high in sorted((bucket_start(low, DAY), bucket_end(high, DAY)) for low, high in spans):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined


def _kept_of(evidence: Evidence, dropped: Sequence[Span]) -> Evidence:
    return msgspec.structs.replace(evidence, kept=without([evidence.asked], dropped))


def _seconds_of(each: DayKinds, span: Span) -> Seconds:
    low, high = max(each.day, span[0]), min(each.day + DAY, span[1])
    seconds = {kind: 60 * mask.bit_count() for kind, mask in zip(KINDS, each.masks, strict=True)}
    for start, end, kind in _whole_seconds(each.parts):
        seconds[kind] += (end - start) // _SECOND
    seconds["missing"] = 0
    seconds["missing"] = (high - low) // _SECOND - sum(seconds.values())
    return seconds


def _whole_seconds(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts that are not missing, in whole seconds."""
    for start, end, kind in parts:
        low, high = _up(start), _down(end)
        if kind != "missing" and low < high:
            yield low, high, kind


def _missing(span: Span, days: Iterable[DayKinds], dropped: Sequence[Span]) -> list[TimeRange]:
    found: list[Span] = list(dropped)
    at = span[0]
    for low, high, _ in _whole_seconds(parts_of(days)):
        if at < low:
            found += without([(at, low)], dropped)
        at = high
    if at < span[1]:
        found += without([(at, span[1])], dropped)
    return [TimeRange(*each) for each in sorted(found)]


async def _find_dropped(connection: Connection, span: Span) -> list[Span]:
    ranges = await connection.fetchval(_DROPPED, *span)
    return [(_down(each.lower), _up(each.upper)) for each in ranges or ()]


def _up(moment: datetime) -> datetime:
    """The next whole second, in UTC."""
    return _down(moment + _SECOND - timedelta(microseconds=1))


def _down(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


_DROPPED = """
    SELECT tstzmultirange(tstzrange($1, $2))
         * coalesce((SELECT ranges FROM dropped_ranges WHERE relation = 'candles'), '{}')
"""
