"""Time for which there are candles of a longer interval without minutes below them: ``time_ranges`` per interval.

Such candles are in ``longer_candles``. In this time every bucket of their interval has its candle, or nobody traded.
"""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from kraken_history.completeness.status_rows import update_row
from kraken_history.database.connections import Connection
from kraken_history.intervals import Span, bucket_end, bucket_start, width_of
from kraken_history.records import TimeRange

LONGER = (5, 15, 30, 60, 240, 720, 1440)
"""The intervals of candles without minutes, in minutes: those that are stored, and that begin with each day in UTC.

Kraken's weeks begin on Thursday, as multiples of seven days since 1970 do, and ours on Monday. So weeks are made of
days.
"""


def data_type_of(interval: int) -> str:
    """The ``data_type`` of an interval in ``data_sync_status``."""
    return f"candles_{interval}m"


def serving(interval: int) -> list[int]:
    """The intervals of :data:`LONGER` from whose candles those of ``interval`` can be made, longest first."""
    return [each for each in reversed(LONGER) if interval % each == 0]


async def cover_longer(
    connection: Connection,
    symbol: str,
    interval: int,
    covered: Sequence[TimeRange],
    stored: Sequence[datetime],
    new: int,
) -> None:
    """Record time for which all candles of a longer interval are known, and that they were asked for.

    Args:
        stored: Open times of the candles in it.
        new: How many of them were not there before.
    """
    await update_row(
        connection,
        symbol,
        data_type_of(interval),
        _ADD_COVER,
        [each.start for each in covered],
        [each.end for each in covered],
        min(stored, default=None),
        max(stored, default=None),
        new,
    )


_ADD_COVER = """
    time_ranges = s.time_ranges + coalesce((
        SELECT range_agg(tstzrange(low, high)) FROM unnest($3::timestamptz[], $4::timestamptz[]) AS c (low, high)
    ), '{}'),
    oldest_timestamp = least(s.oldest_timestamp, $5::timestamptz),
    newest_timestamp = greatest(s.newest_timestamp, $6::timestamptz),
    total_records = s.total_records + $7::bigint, last_sync_at = now()
"""


async def find_unasked(pool: asyncpg.Pool, symbols: Sequence[str], since: datetime) -> list[str]:
    """Those of the symbols whose daily candles were not asked for since this time."""
    rows = await pool.fetch(
        """
        SELECT symbol FROM unnest($1::text[]) WITH ORDINALITY AS w (symbol, place)
        WHERE NOT EXISTS (
            SELECT FROM data_sync_status s WHERE s.symbol = w.symbol AND s.data_type = $2 AND s.last_sync_at >= $3
        ) ORDER BY place
        """,
        list(symbols),
        data_type_of(LONGER[-1]),
        since,
    )
    return [row["symbol"] for row in rows]


async def find_longer_cover(connection: Connection, symbol: str, interval: int, span: Span) -> dict[int, list[Span]]:
    """By serving interval, the parts of ``span`` in whole buckets of ``interval`` for which its candles are known."""
    width = width_of(interval)
    types = {data_type_of(each): each for each in serving(interval)}
    if not types:
        return {}
    rows = await connection.fetch(_COVER, symbol, list(types), bucket_start(span[0], width), bucket_end(span[1], width))
    found: dict[int, list[Span]] = {}
    for row in rows:
        low, high = bucket_end(row["covered"].lower, width), bucket_start(row["covered"].upper, width)
        if max(low, span[0]) < min(high, span[1]):
            found.setdefault(types[row["data_type"]], []).append((max(low, span[0]), min(high, span[1])))
    return found


async def find_longer_since(connection: Connection, symbol: str, interval: int) -> datetime | None:
    """From when on candles without minutes can serve an interval; None if there are none."""
    since: datetime | None = await connection.fetchval(
        "SELECT min(lower(time_ranges)) FROM data_sync_status WHERE symbol = $1 AND data_type = ANY ($2)",
        symbol,
        [data_type_of(each) for each in serving(interval)],
    )
    return since


_COVER = """
    SELECT data_type, unnest(time_ranges * tstzmultirange(tstzrange($3, $4))) AS covered
    FROM data_sync_status WHERE symbol = $1 AND data_type = ANY ($2) ORDER BY 1, 2
"""
