"""How much of a long history is covered, by day and in total, and where it is missing.

:func:`~kraken_history.reading.coverage.read_coverage` looks at each minute, and returns each change of kind: for ten
years that is millions of spans. Here only the doubtful minutes are looked at one by one: those that the ledger does not
cover, and those at the edges of covered time. In all other time nothing is missing, so counting its candles by day is
enough. Both give the same result, at a resolution of whole seconds: a second that is missing in part counts as missing.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
from msgspec import Struct

from kraken_history.completeness.covered_time import COVERED_BY_TRADES
from kraken_history.completeness.hole_search import DAY, LONGEST_WINDOW, find_holes_of_long, split
from kraken_history.database.connections import Connection
from kraken_history.intervals import Span, bucket_start
from kraken_history.reading.coverage import KINDS, CoverageKind, classify
from kraken_history.reading.live_edge import without
from kraken_history.records import TimeRange

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
    connection: Connection, symbol: str, start: datetime, end: datetime, *, join_within: timedelta = DAY
) -> MeasuredCoverage:
    """The coverage of a stored symbol, as of one moment.

    Args:
        start, end: In whole seconds, UTC.
        join_within: Doubtful times that are closer together are looked at together.
    """
    span = (start, end)
    seen = await _look(connection, symbol, span, join_within, counts=True)
    days = {day: dict.fromkeys(KINDS, 0) for day, _, _ in _by_day([span])}
    for low, high, kind in seen.known:
        for day, first, last in _by_day([(low, high)]):
            days[day][kind] += _seconds(last - first)
    for day, first, last in _by_day(seen.clear):
        days[day]["quiet"] += _seconds(last - first)
    for day, proven, exchange in seen.counts:
        days[day]["proven"] += 60 * proven
        days[day]["exchange"] += 60 * exchange
        days[day]["quiet"] -= 60 * (proven + exchange)
    for day, first, last in _by_day([span]):
        days[day]["missing"] = _seconds(last - first) - sum(days[day].values())
    dropped = [TimeRange(*each) for each in seen.dropped]
    return MeasuredCoverage(symbol, start, end, days, _missing(span, seen), dropped)


async def find_missing(connection: Connection, symbol: str, start: datetime, end: datetime) -> list[TimeRange]:
    """The missing ranges of ``[start, end)``, as :func:`measure_coverage` finds them, without counting any candles.

    Args:
        start, end: In whole seconds, UTC.
    """
    return _missing((start, end), await _look(connection, symbol, (start, end), DAY, counts=False))


class _Seen(Struct, frozen=True):
    """What one look at the database found.

    Attributes:
        known: The covered parts of the doubtful time, in order.
        clear: The time without doubt, in order: covered, in whole minutes.
        counts: By day with candles in the clear time: the number of those built from trades, and of others.
        dropped: The time whose one-minute candles were dropped, in order.
    """

    known: Sequence[tuple[datetime, datetime, CoverageKind]]
    clear: Sequence[Span]
    counts: Sequence[tuple[datetime, int, int]]
    dropped: Sequence[Span]


async def _look(connection: Connection, symbol: str, span: Span, join_within: timedelta, *, counts: bool) -> _Seen:
    while True:
        dropped = await _find_dropped(connection, span)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            doubtful = await _find_doubtful(connection, symbol, span, dropped, join_within)
            known = [
                (start, end, kind)
                async for low, high, kind in _classified(connection, symbol, doubtful)
                for start, end in without([(low, high)], dropped)
            ]
            clear = without(without([span], doubtful), dropped)
            counted = await _count_candles(connection, symbol, clear) if counts and clear else []
        # If more was dropped meanwhile, the snapshot may lack those candles.
        if await _find_dropped(connection, span) == dropped:
            return _Seen(known, clear, counted, dropped)


def _missing(span: Span, seen: _Seen) -> list[TimeRange]:
    covered = sorted([*seen.clear, *((low, high) for low, high, _ in seen.known)])
    found = without(without([span], covered), seen.dropped)
    return [TimeRange(*each) for each in sorted([*found, *seen.dropped])]


async def _find_doubtful(
    connection: Connection, symbol: str, span: Span, dropped: Sequence[Span], join_within: timedelta
) -> list[Span]:
    """The parts of ``span`` that must be looked at by the minute, in order."""
    holes = await find_holes_of_long(connection, symbol, span)
    rows = await connection.fetch(
        _DOUBTFUL,
        symbol,
        *span,
        [low for low, _ in holes],
        [high for _, high in holes],
        [moment for each in dropped for moment in each],
    )
    joined: list[Span] = []
    for row in rows:
        low, high = max(row["doubtful"].lower, span[0]), min(row["doubtful"].upper, span[1])
        if low >= high:
            continue
        if joined and low - joined[-1][1] < join_within:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    return joined


async def _classified(
    connection: Connection, symbol: str, spans: Iterable[Span]
) -> AsyncIterator[tuple[datetime, datetime, CoverageKind]]:
    """The covered parts of ``spans``, in whole seconds, in order."""
    for piece in split(spans, LONGEST_WINDOW):
        for row in await classify(connection, symbol, piece):
            low, high = _up(row["start"]), _down(row["end"])
            if low < high:
                yield low, high, row["kind"]


async def _count_candles(connection: Connection, symbol: str, clear: Sequence[Span]) -> list[tuple[datetime, int, int]]:
    ranges = [asyncpg.Range(*part) for part in clear]
    rows = await connection.fetch(_COUNTS, symbol, clear[0][0], clear[-1][1], ranges)
    return [(row["day"], row["proven"], row["exchange"]) for row in rows]


async def _find_dropped(connection: Connection, span: Span) -> list[Span]:
    ranges = await connection.fetchval(_DROPPED, *span)
    return [(_down(each.lower), _up(each.upper)) for each in ranges or ()]


def _by_day(spans: Iterable[Span]) -> Iterator[tuple[datetime, datetime, datetime]]:
    """The parts of each day in UTC: the day, and the part's start and end."""
    return ((bucket_start(low, DAY), low, high) for low, high in split(spans, DAY))


def _seconds(duration: timedelta) -> int:
    return duration // _SECOND


def _up(moment: datetime) -> datetime:
    """The next whole second, in UTC."""
    return _down(moment + _SECOND - timedelta(microseconds=1))


def _down(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


# Inside time that trades cover, a minute has a candle of all its trades, one of the exchange, or none, and inside time
# that candles cover it has one of the exchange or none. An exception is a minute of which only a part is covered, or
# that holds a trade at the edge of covered time: one beside an edge of what trades cover, of what candles cover, of
# what was dropped, or of the request. The candle of the running minute is not complete either.
_DOUBTFUL = f"""
    WITH covered AS (
        SELECT asked, asked * (coalesce((
                   SELECT {COVERED_BY_TRADES} FROM data_sync_status s WHERE symbol = $1 AND data_type = 'trades'
               ), '{{}}') - coalesce((
                   SELECT range_agg(tstzrange(low, high))
                   FROM unnest($4::timestamptz[], $5::timestamptz[]) AS hole (low, high)
               ), '{{}}')) AS by_trades,
               asked * coalesce((
                   SELECT time_ranges FROM data_sync_status WHERE symbol = $1 AND data_type = 'candles_1m'
               ), '{{}}') AS by_candles
        FROM tstzmultirange(tstzrange($2, $3)) AS asked
    ), edge AS (
        SELECT unnest(ARRAY[lower(r), upper(r)]) AS moment
        FROM covered, LATERAL (
            SELECT unnest(by_trades) UNION ALL SELECT unnest(by_candles) UNION ALL SELECT unnest(asked)
        ) AS part (r)
        UNION ALL SELECT unnest($6::timestamptz[])
        UNION ALL SELECT unnest(ARRAY[oldest_timestamp, newest_timestamp])
        FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'
    )
    SELECT unnest(range_agg(r)) AS doubtful FROM (
        SELECT unnest(asked - by_trades - by_candles) FROM covered
        UNION ALL
        SELECT tstzrange(minute - interval '1 minute', minute + interval '1 minute')
        FROM edge, date_trunc('minute', moment) AS minute WHERE moment IS NOT NULL
        UNION ALL
        SELECT tstzrange(date_trunc('minute', now()), date_trunc('minute', now()) + interval '1 minute')
    ) AS doubt (r) WHERE NOT isempty(r)
    ORDER BY 1
"""  # noqa: S608 — a constant is put in

_COUNTS = """
    SELECT date_bin('1 day', timestamp, '2000-01-03 00:00:00+00') AS day,
           count(*) FILTER (WHERE source = 'trades') AS proven,
           count(*) FILTER (WHERE source <> 'trades') AS exchange
    FROM candles
    WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $2 AND timestamp < $3
      AND timestamp <@ $4::tstzmultirange
    GROUP BY 1
"""

_DROPPED = """
    SELECT tstzmultirange(tstzrange($1, $2))
         * coalesce((SELECT ranges FROM dropped_ranges WHERE relation = 'candles'), '{}')
"""
