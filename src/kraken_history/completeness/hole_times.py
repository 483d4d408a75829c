"""Determines when the trades with missing ids were made.

The ledger keeps, with each run of ids that are not stored, the times of the stored trades on both sides of it. So the
time of a hole is looked up, however long the history is, and whatever retention dropped of it.

:func:`locate` bounds one hole that must be fetched. :func:`find_hole_spans` bounds all holes that touch a time range,
in whole minutes, because the candles of these minutes are incomplete. A related question, up to when a symbol has no
hole that keeps a candle open, is part of one query per poll in :mod:`~kraken_history.completeness.settled`.
"""

from collections.abc import Iterable
from datetime import datetime

import asyncpg
from msgspec import Struct

from kraken_history.clock import CLOCK_SLACK
from kraken_history.database.connections import Connection
from kraken_history.intervals import Span, bucket_end, bucket_start
from kraken_history.ledger import IdRange
from kraken_history.records import MINUTE, floor_minute, unix_ns, utc_from_unix_ns


async def find_hole_spans(connection: Connection, symbol: str, span: Span) -> list[Span]:
    """The time of each hole in the ids that touches ``span``, in whole minutes, in order of time.

    It goes from the minute of the trade on one side of the hole to that of the other. If one of the two times is not
    known, it goes to the oldest or the newest trade.
    """
    start, end = bucket_start(span[0], MINUTE), bucket_end(span[1], MINUTE)
    rows = await connection.fetch(_TOUCHING, symbol, start, end)
    sides = [(row["after_time"], row["before_time"]) for row in rows]
    if any(None in each for each in sides):
        extent = await connection.fetchrow(_EXTENT, symbol)
        assert extent is not None  # a symbol with holes has trades
        sides = [(after or extent["oldest"], before or extent["newest"]) for after, before in sides]
    return sorted(each for each in _minutes(sides) if each[0] < end and each[1] > start)


def _minutes(sides: Iterable[Span]) -> list[Span]:
    # The trade with the higher id may be the older one.
    return [(floor_minute(min(each)), floor_minute(max(each)) + MINUTE) for each in sides]


# Each row has a level n: its time is at most 4^n minutes wide, and of 13 it may have any width. So of each level, the
# index has the rows that reach into the range in one short stretch, in whatever order times and ids are. The minute
# more is for the rounding of the level.
_TOUCHING = """
    SELECT u.after_time, u.before_time
    FROM (
        SELECT n AS level,
               CASE WHEN n = 13 THEN 'infinity' ELSE $3::timestamptz + (4 ^ n + 1) * interval '1 minute' END AS until
        FROM generate_series(0, 13) AS n
    ) AS w
    CROSS JOIN LATERAL (
        SELECT after_time, before_time FROM unheld_ids
        WHERE symbol = $1 AND missing > 0 AND level = w.level AND high_time >= $2 AND high_time <= w.until
          AND (after_time IS NULL OR before_time IS NULL OR least(after_time, before_time) < $3)
        OFFSET 0
    ) AS u
"""

_EXTENT = """
    SELECT oldest_timestamp AS oldest, newest_timestamp AS newest FROM data_sync_status
    WHERE symbol = $1 AND data_type = 'trades' AND generation = newest_generation($1, 'trades')
"""


class HoleSpan(Struct, frozen=True):
    """When the trades of a hole were made.

    Attributes:
        since: The cursor from which to fetch, in nanoseconds.
        start: Time of the last stored trade before the hole.
        end: Time of the first stored trade after the hole.
    """

    since: int
    start: datetime
    end: datetime


async def since_before(pool: asyncpg.Pool | Connection, symbol: str, trade_id: int) -> int:
    """The cursor from which to fetch ``trade_id``, which is missing, in nanoseconds; 0 if no trade is stored.

    It is the time of the stored trade before it, a little earlier. If that time is not known, an earlier one is taken.
    """
    start = await _time_before(pool, symbol, trade_id)
    return 0 if start is None else unix_ns(start - CLOCK_SLACK)


async def locate(pool: asyncpg.Pool | Connection, symbol: str, hole: IdRange) -> HoleSpan:
    """When the trades of one hole were made: between the trade before it and the trade after it."""
    start = await _time_before(pool, symbol, hole[0])
    since = 0 if start is None else unix_ns(start - CLOCK_SLACK)
    if start is None:
        start = utc_from_unix_ns(0)
    end: datetime | None = await pool.fetchval(_TIME_AFTER, symbol, hole[1])
    return HoleSpan(since, start, max(end or start, start))


async def _time_before(pool: asyncpg.Pool | Connection, symbol: str, trade_id: int) -> datetime | None:
    moment: datetime | None = await pool.fetchval(_TIME_BEFORE, symbol, trade_id)
    return moment


# The earlier one of both sides, if the trade with the higher id is older. If the run's own time is not known, the end
# of the run before it is an earlier time.
_TIME_BEFORE = """
    SELECT CASE
        WHEN $2 > s.highest_id THEN s.newest_timestamp
        WHEN $2 <= s.lowest_id THEN s.oldest_timestamp
        ELSE coalesce((
            SELECT least(after_time, before_time) FROM (
                SELECT first_id, after_time, before_time FROM unheld_ids
                WHERE symbol = $1 AND stop_id > $2 ORDER BY stop_id, first_id DESC LIMIT 1
            ) AS u WHERE first_id <= $2 AND after_time IS NOT NULL
        ), (
            SELECT least(after_time, before_time) FROM unheld_ids
            WHERE symbol = $1 AND stop_id <= $2 AND before_time IS NOT NULL ORDER BY stop_id DESC, first_id LIMIT 1
        ), s.oldest_timestamp) END
    FROM data_sync_status s
    WHERE s.symbol = $1 AND s.data_type = 'trades' AND s.generation = newest_generation($1, 'trades')
"""

# $2 is the id after a hole. A run reaches further than the hole if the id is absent.
_TIME_AFTER = """
    SELECT CASE WHEN $2 > s.highest_id THEN s.newest_timestamp
        ELSE coalesce((
            SELECT greatest(after_time, before_time) FROM unheld_ids
            WHERE symbol = $1 AND stop_id >= $2 AND before_time IS NOT NULL ORDER BY stop_id, first_id DESC LIMIT 1
        ), s.newest_timestamp) END
    FROM data_sync_status s
    WHERE s.symbol = $1 AND s.data_type = 'trades' AND s.generation = newest_generation($1, 'trades')
"""
