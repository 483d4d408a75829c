"""The marks of stale time: rows, so that adding or removing one costs the same however many there are.

A write marks the hours of its symbols in ``stale_hours``, in the transaction that changes their candles. A refresh
takes these marks up: it moves them to ``stale_buckets``, once for each longer interval. There they stay until their
buckets are materialised. Only the holder of the refresh lock changes ``stale_buckets``.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import asyncpg

from kraken_history.completeness.status_rows import lock_keys
from kraken_history.database.connections import Connection
from kraken_history.intervals import bucket_start
from kraken_history.records import TimeRange
from kraken_history.storing.longer_intervals import AGGREGATES, Aggregate

SLICE = timedelta(weeks=13)
"""Longest time of one mark of an interval. Marks are cut at multiples of it, which are bounds of all buckets.

A refresh works slice by slice, and every bucket lies in one of them.
"""

BRIDGED_BUCKETS = 12
"""Marks with so few buckets between them become one: to refresh a few buckets more costs less than one statement."""

_SYMBOLS_AT_ONCE = 100  # whose writers wait while their marks are taken up
_LOCK_TIMEOUT_MS = 500  # longest wait for one writer; after it, the next refresh takes these marks up


MARK_HOURS = """
    INSERT INTO stale_hours (symbol, start_time, end_time)
    SELECT * FROM unnest({symbols}::text[], {starts}::timestamptz[], {ends}::timestamptz[])
    ON CONFLICT DO NOTHING
"""
"""A statement that marks hours. The symbols must be locked, so that no refresh removes an equal mark meanwhile."""


async def take_up_marks(connection: Connection) -> list[str]:
    """Move the marks of all symbols to each interval. The next write marks its hours again.

    Returns:
        The symbols whose marks stay as they are, because a writer takes long. The next refresh takes them up.
    """
    rows = await connection.fetch("SELECT DISTINCT symbol FROM stale_hours ORDER BY symbol")
    symbols = [row["symbol"] for row in rows]
    locked: list[str] = []
    for at in range(0, len(symbols), _SYMBOLS_AT_ONCE):
        locked += await _take_up_marks_of(connection, symbols[at : at + _SYMBOLS_AT_ONCE])
    return locked


async def _take_up_marks_of(connection: Connection, symbols: list[str]) -> list[str]:
    """Take up the marks of some symbols in one transaction, or without those that are locked for long: return these."""
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
            # Every writer holds this lock until it commits: its marks are seen here, or it marks its hours again.
            await lock_keys(connection, symbols)
            views, bridged = [a.view for a in AGGREGATES], [BRIDGED_BUCKETS * a.width for a in AGGREGATES]
            await connection.execute(_HAND_OVER_MARKS, symbols, views, bridged)
            return []
    except asyncpg.LockNotAvailableError:
        half = len(symbols) // 2
        if not half:
            return symbols
        return [
            *await _take_up_marks_of(connection, symbols[:half]),
            *await _take_up_marks_of(connection, symbols[half:]),
        ]


async def mark_candles(connection: Connection, within: TimeRange) -> None:
    """Mark a range in each interval, as far as it has one-minute candles."""
    await connection.execute(_MARK_CANDLES, within.start, within.end)


async def marked_time(connection: Connection, aggregate: Aggregate, before: datetime) -> list[TimeRange]:
    """The marks of an interval that begin before a time, by their start."""
    rows = await connection.fetch(_MARKED, aggregate.view, before)
    return [TimeRange(row["start_time"], row["end_time"]) for row in rows]


async def remove_marks(
    connection: Connection, aggregate: Aggregate, marks: Sequence[TimeRange], left: Sequence[TimeRange]
) -> None:
    """Replace marks of an interval by what is left of them."""
    await connection.execute(_REMOVE_MARKS, aggregate.view, *_columns(marks))
    if left:
        await connection.execute(_ADD_MARKS, aggregate.view, *_columns(left))


async def oldest_mark(connection: Connection) -> datetime | None:
    """The start of the oldest marked time, in any interval. No refresh needs older rows."""
    mark: datetime | None = await connection.fetchval(_OLDEST_MARK)
    return mark


def slice_of(moment: datetime) -> datetime:
    """The start of the slice that holds this moment."""
    return bucket_start(moment, SLICE)


def _columns(marks: Iterable[TimeRange]) -> tuple[list[datetime], list[datetime]]:
    ranges = list(marks)
    return [each.start for each in ranges], [each.end for each in ranges]


# Cut at the bounds of slices. In hours, because a day of `generate_series` is one of the session's time zone.
_INTO_SLICES = """
    INSERT INTO stale_buckets (name, start_time, end_time)
    SELECT name, greatest(low, slice), least(high, slice + interval '2184 hours')
    FROM {marks} AS m CROSS JOIN generate_series(
        date_bin('2184 hours', low, timestamptz '2000-01-03 00:00:00+00'),
        high - interval '1 microsecond', interval '2184 hours'
    ) AS slice
    ON CONFLICT DO NOTHING
"""

_HAND_OVER_MARKS = f"""
    WITH taken AS (
        DELETE FROM stale_hours WHERE symbol = ANY ($1) RETURNING start_time, end_time
    ), near AS (
        SELECT a.name, a.bridged, unnest(range_agg(tstzrange(start_time, end_time + a.bridged))) AS marked
        FROM taken CROSS JOIN unnest($2::text[], $3::interval[]) AS a (name, bridged) GROUP BY a.name, a.bridged
    )
    {_INTO_SLICES.format(marks="(SELECT name, lower(marked) AS low, upper(marked) - bridged AS high FROM near)")}
"""  # noqa: S608 — only constants of this module are put in

_MARK_CANDLES = _INTO_SLICES.format(
    marks="""(
        SELECT a.name, greatest(oldest, $1::timestamptz) AS low,
               least(newest + interval '1 minute', $2::timestamptz) AS high
        FROM candle_aggregates a
        CROSS JOIN (SELECT min(timestamp) AS oldest, max(timestamp) AS newest FROM candles) AS c
        WHERE newest + interval '1 minute' > $1 AND oldest < $2
    )"""
)

_MARKED = """
    SELECT start_time, end_time FROM stale_buckets WHERE name = $1 AND start_time < $2 ORDER BY start_time, end_time
"""

_REMOVE_MARKS = """
    DELETE FROM stale_buckets s USING unnest($2::timestamptz[], $3::timestamptz[]) AS m (start_time, end_time)
    WHERE s.name = $1 AND s.start_time = m.start_time AND s.end_time = m.end_time
"""

_ADD_MARKS = """
    INSERT INTO stale_buckets (name, start_time, end_time)
    SELECT $1, * FROM unnest($2::timestamptz[], $3::timestamptz[]) ON CONFLICT DO NOTHING
"""

_OLDEST_MARK = """
    SELECT least((SELECT min(start_time) FROM stale_buckets), (SELECT min(start_time) FROM stale_hours))
"""
