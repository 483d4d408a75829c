"""Reading candles of any interval."""

from contextlib import suppress
from datetime import datetime

import asyncpg
from msgspec import Struct

from kraken_history.arguments import whole_number
from kraken_history.database.connections import Connection
from kraken_history.errors import InvalidNumber, UnknownSymbol
from kraken_history.intervals import (
    EARLIEST,
    LATEST,
    Span,
    as_utc,
    bucket_end,
    bucket_start,
    checked_interval,
    closed_window,
    width_of,
)
from kraken_history.reading.candle_copy import FEWEST_BUCKETS, NotPlain, copy_candles
from kraken_history.reading.candle_query import (
    CANONICAL_COLUMNS,
    Marks,
    Query,
    StoredView,
    marked_views,
    select_candles,
    windows_back,
)
from kraken_history.reading.database import Database
from kraken_history.reading.longer import find_longer_parts, longer_types
from kraken_history.reading.names import by_any_name, read_symbols
from kraken_history.records import MINUTE, HistoricalCandle


class Extent(Struct, frozen=True):
    """The extent of a symbol's candles.

    Attributes:
        oldest, newest: Open times of candles; None if there has never been one.
    """

    oldest: datetime | None
    newest: datetime | None


@by_any_name
async def read_candles(
    database: Database, symbol: str, interval: int, start: datetime, end: datetime, limit: int | None = None
) -> list[HistoricalCandle]:
    """Candles that open at or after ``start`` and are closed at ``end``, oldest first; at most ``limit`` of them.

    Raises:
        UsageError: An argument is not valid.
        UnknownSymbol: Nothing is stored for this symbol.
        ServiceUnavailable: The database is unavailable.
    """
    span = closed_window(start, end, interval)
    interval, limit = checked_interval(interval), checked_limit(limit)
    candles = await read_span(database, symbol, interval, span, limit) if span[0] < span[1] else []
    if not candles:
        await require_symbol(database, symbol)
    return candles


async def read_latest_of(
    database: Database, symbol: str, interval: int, count: int, end: datetime | None = None
) -> list[HistoricalCandle]:
    """The newest ``count`` candles, oldest first; with ``end``, only candles that are closed at that time.

    Takes the stored name of a symbol only.
    """
    interval, count = checked_interval(interval), checked_count("count", count)
    if end is None:
        found = await _read_newest(database, symbol, interval, count)
        if found:
            database.newest_seen[symbol] = found[-1].timestamp
        return found
    return await _read_back(database, symbol, interval, count, bucket_start(as_utc(end), width_of(interval)))


async def _read_newest(database: Database, name: str, interval: int, count: int) -> list[HistoricalCandle]:
    """The newest candles; one query, if it finds enough of them shortly before the newest candle seen so far."""
    width = width_of(interval)
    seen = database.newest_seen.get(name)
    if seen is not None:
        start, end = bucket_start(seen, width), bucket_start(LATEST, width)
        span = start - min(2 * count, (start - EARLIEST) // width) * width, end
        found = await read_span(database, name, interval, span, count, newest=True)
        if len(found) == count:
            return found
    return await _read_back(database, name, interval, count, None)


async def _read_back(
    database: Database, name: str, interval: int, count: int, limit: datetime | None
) -> list[HistoricalCandle]:
    extent = await read_extent(database, name, interval)
    if extent.newest is None or extent.oldest is None:
        return []
    newest_end = bucket_end(extent.newest + MINUTE, width_of(interval))
    last = newest_end if limit is None else min(limit, newest_end)
    found: list[HistoricalCandle] = []
    for span in windows_back(last, extent.oldest, count, width_of(interval)):
        found = [*await read_span(database, name, interval, span, count - len(found), newest=True), *found]
        if len(found) == count:
            break
    return found


async def read_span(
    database: Database, symbol: str, interval: int, span: Span, limit: int | None = None, *, newest: bool = False
) -> list[HistoricalCandle]:
    """Candles that open within ``span``, oldest first; its bounds are bounds of buckets.

    Args:
        limit: Maximum number of candles: the oldest, or with ``newest`` the newest.
    """
    query = Query()
    order = "DESC" if newest else "ASC"
    most = "" if limit is None else f"LIMIT {int(limit)}"
    async with database.connection() as connection:  # one, so that the same replica answers both queries
        marks = await _read_marks(connection, symbol, interval, span)
        if limit is None and (span[1] - span[0]) // width_of(interval) >= FEWEST_BUCKETS:
            with suppress(NotPlain):
                copied = select_candles(Query(literal=True), symbol, interval, span, marks)
                return await copy_candles(connection, copied, symbol, interval)
        select = select_candles(query, symbol, interval, span, marks)
        rows = await connection.fetch(
            f"SELECT {CANONICAL_COLUMNS} FROM ({select}) AS c ORDER BY timestamp {order} {most}",  # noqa: S608 — our own SQL
            *query.arguments,
        )
    candles = candles_of(rows)
    return candles[::-1] if newest else candles


def candles_of(rows: list[asyncpg.Record]) -> list[HistoricalCandle]:
    """The records of rows that have the columns of a candle, in order."""
    return [HistoricalCandle(*row) for row in rows]


async def read_marks(database: Database, symbol: str, interval: int, span: Span) -> Marks:
    """The stale time, within ``span``, of the views that an interval is read from."""
    if not marked_views(interval):
        return Marks({})
    async with database.connection() as connection:
        return await _read_marks(connection, symbol, interval, span)


async def _read_marks(connection: Connection, symbol: str, interval: int, span: Span) -> Marks:
    views = marked_views(interval)
    if not views:
        return Marks({})
    rows = await connection.fetch(_MARKS, symbol, views, *span, longer_types(interval))
    has_longer = any(row["has_longer"] for row in rows)
    longer = await find_longer_parts(connection, symbol, interval, span) if has_longer else []
    marked = {
        row["name"]: StoredView(
            row["relation"], [(each.lower, each.upper) for each in row["stale"] or ()], row["is_corrected"]
        )
        for row in rows
    }
    return Marks(marked, longer)


# If the server has no continuous aggregates, each view has a table below it, filled up to `materialized_until`. Time
# after that counts as stale. With continuous aggregates this column does not exist, hence `to_jsonb`.
_MARKS = """
    SELECT a.name, CASE WHEN kept.until IS NULL THEN a.name ELSE a.name || '_rows' END AS relation,
           (coalesce((
                SELECT range_agg(tstzrange(start_time, end_time)) FROM (
                    SELECT start_time, end_time FROM stale_buckets
                    WHERE name = a.name AND start_time < $4 AND end_time > $3
                    UNION ALL
                    SELECT start_time, end_time FROM stale_hours
                    WHERE symbol = $1 AND start_time < $4 AND end_time > $3
                ) AS marks
            ), '{}')
            + CASE WHEN kept.until IS NULL THEN '{}' ELSE tstzmultirange(tstzrange(kept.until, 'infinity')) END
           ) * tstzmultirange(tstzrange($3, $4)) AS stale,
           EXISTS (SELECT FROM corrected_minutes k WHERE k.name = a.name AND k.symbol = $1) AS is_corrected,
           EXISTS (
               SELECT FROM data_sync_status
               WHERE symbol = $1 AND data_type = ANY ($5) AND time_ranges && tstzrange($3, $4)
           ) AS has_longer
    FROM candle_aggregates a
    CROSS JOIN LATERAL (SELECT (to_jsonb(a) ->> 'materialized_until')::timestamptz AS until) AS kept
    WHERE a.name = ANY ($2)
"""


async def read_extent(database: Database, symbol: str, interval: int = 1) -> Extent:
    """Times of a symbol's oldest and newest candle from which candles of an interval are made.

    Raises:
        UnknownSymbol: Nothing is stored for this symbol.
    """
    rows = await database.fetch(_EXTENT, symbol, ["candles_1m", *longer_types(interval)])
    if not rows:
        raise UnknownSymbol.not_stored(symbol, await read_symbols(database))
    return Extent(rows[0]["oldest"], rows[0]["newest"])


_EXTENT = """
    SELECT min(oldest_timestamp) FILTER (WHERE data_type = ANY ($2)) AS oldest,
           max(newest_timestamp) FILTER (WHERE data_type = ANY ($2)) AS newest
    FROM data_sync_status WHERE symbol = $1 HAVING count(*) > 0
"""


async def require_symbol(database: Database, symbol: str) -> None:
    """Raise UnknownSymbol if nothing is stored for this symbol."""
    await read_extent(database, symbol)


def checked_limit(limit: int | None) -> int | None:
    """:func:`checked_count` of a limit; None means no limit."""
    return None if limit is None else checked_count("limit", limit)


def checked_count(name: str, count: int) -> int:
    """The number of candles as a plain int.

    Raises:
        InvalidNumber: It is not a whole number of at least 1.
    """
    number = whole_number(count)
    if number is None or not 1 <= number < 2**31:
        raise InvalidNumber(name, count, "a whole number of at least 1")
    return number
