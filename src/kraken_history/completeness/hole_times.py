"""Determines when the trades with missing ids were made.

:func:`locate` bounds one hole that must be fetched, by the stored trades around it. :func:`find_hole_spans` bounds all
holes that touch a time range, in whole minutes, because the candles of these minutes are incomplete. It reads the
candles of that range once, regardless of the number of holes. A related question, up to when a symbol has no hole that
keeps a candle open, is part of one query per poll in :mod:`~kraken_history.completeness.settled`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg
from msgspec import Struct

from kraken_history.clock import CLOCK_SLACK
from kraken_history.database.connections import Connection
from kraken_history.intervals import Span, bucket_end, bucket_start
from kraken_history.ledger import IdRange
from kraken_history.records import MINUTE, floor_minute, unix_ns, utc_from_unix_ns


class _Hole(Struct, frozen=True):
    """Missing ids, and the candles of source ``trades`` that bound their time.

    Attributes:
        before, after: The stored ids around the hole.
        low, low_last_id: The last candle whose first id is at most ``before``, and its last id.
        high, high_first_id: The first candle whose first id is at least ``after``, and its first id.
    """

    before: int
    after: int
    low: datetime | None
    low_last_id: int | None
    high: datetime | None
    high_first_id: int | None

    @property
    def start(self) -> datetime | None:
        """The minute of the trade before the hole, if the low candle contains that trade."""
        return self.low if self.low_last_id is not None and self.low_last_id >= self.before else None

    @property
    def end(self) -> datetime | None:
        """The end of the minute of the trade after the hole, if one of the candles contains that trade."""
        if self.low is not None and self.low_last_id is not None and self.low_last_id >= self.after:
            return self.low + MINUTE
        return self.high + MINUTE if self.high is not None and self.high_first_id == self.after else None


async def find_hole_spans(connection: Connection, symbol: str, span: Span) -> list[Span]:
    """The time of each hole in the ids that may touch ``span``, in whole minutes."""
    extent = await connection.fetchrow(_EXTENT_OF_HOLES, symbol)
    if extent is None:
        return []
    oldest, newest = floor_minute(extent["oldest"]), floor_minute(extent["newest"]) + MINUTE
    if newest <= span[0] or oldest >= span[1]:
        return []
    search = (symbol, bucket_start(span[0], MINUTE), bucket_end(span[1], MINUTE), oldest, newest)
    if not await connection.fetchval(_HAS_HOLES, *search):
        return []
    rows = await connection.fetch(_HOLES, *search)
    holes = [_Hole(*row) for row in rows]
    unclear = [hole for hole in holes if hole.start is None or hole.end is None]
    found = await _find_trades(connection, symbol, unclear, oldest, newest)
    return [
        _in_order(
            hole.start or found.get(hole.before) or (oldest if hole.low is None else hole.low + MINUTE),
            hole.end or _minute_after(found.get(hole.after)) or hole.high or newest,
        )
        for hole in holes
    ]


def _in_order(start: datetime, end: datetime) -> Span:
    """From the minute of one trade around a hole to that of the other: the one with the higher id may be the older."""
    return (start, end) if start < end else (end - MINUTE, start + MINUTE)


def _minute_after(minute: datetime | None) -> datetime | None:
    return None if minute is None else minute + MINUTE


_EXTENT_OF_HOLES = """
    SELECT oldest_timestamp AS oldest, newest_timestamp AS newest FROM data_sync_status
    WHERE symbol = $1 AND data_type = 'trades' AND NOT isempty(id_ranges)
      AND NOT isempty(ledger_holes(id_ranges, absent_id_ranges))
"""

# Of most ranges, the candle on each side shows by its ids that all holes lie elsewhere. Without such a candle, null
# leaves that side open. If the earlier candle has the higher ids, the ids show nothing. $4 and $5 bound the time of all
# trades.
_HAS_HOLES = """
    WITH beside AS MATERIALIZED (
        SELECT (
            SELECT first_trade_id FROM candles
            WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $4 AND timestamp < $2
              AND first_trade_id IS NOT NULL ORDER BY timestamp DESC LIMIT 1
        ) AS low, (
            SELECT first_trade_id FROM candles
            WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $3 AND timestamp < $5
              AND first_trade_id IS NOT NULL ORDER BY timestamp LIMIT 1
        ) AS high
    )
    SELECT NOT isempty(ledger_holes(s.id_ranges, s.absent_id_ranges) * int8multirange(
        CASE WHEN low > high THEN '(,)' ELSE int8range(low, high) END
    ))
    FROM data_sync_status s CROSS JOIN beside WHERE symbol = $1 AND data_type = 'trades'
"""

# The candles of the requested time, and one on each side, are collected (MATERIALIZED) and searched in memory, because
# the index on their ids does not cover compressed chunks. $4 and $5 bound the time of all trades.
_HOLES = """
    WITH built AS MATERIALIZED (
        (SELECT timestamp, first_trade_id, last_trade_id FROM candles
         WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $4 AND timestamp < $2
           AND first_trade_id IS NOT NULL ORDER BY timestamp DESC LIMIT 1)
        UNION ALL
        SELECT timestamp, first_trade_id, last_trade_id FROM candles
        WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $2 AND timestamp < $3
          AND first_trade_id IS NOT NULL
        UNION ALL
        (SELECT timestamp, first_trade_id, last_trade_id FROM candles
         WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $3 AND timestamp < $5
           AND first_trade_id IS NOT NULL ORDER BY timestamp LIMIT 1)
    ), columns AS MATERIALIZED (
        SELECT coalesce(array_agg(timestamp ORDER BY first_trade_id), '{}') AS times,
               coalesce(array_agg(first_trade_id ORDER BY first_trade_id), '{}') AS firsts,
               coalesce(array_agg(last_trade_id ORDER BY first_trade_id), '{}') AS lasts,
               min(first_trade_id) FILTER (WHERE timestamp < $2) AS lowest,
               min(first_trade_id) FILTER (WHERE timestamp >= $3) AS highest
        FROM built
    ), gaps AS (
        SELECT lag(upper(held)) OVER (ORDER BY held) - 1 AS before, lower(held) AS after, absent_id_ranges AS absent
        FROM data_sync_status, unnest(id_ranges) AS held WHERE symbol = $1 AND data_type = 'trades'
    ), holes AS MATERIALIZED (
        SELECT before, after, width_bucket(before, (SELECT firsts FROM columns)) AS low,
               width_bucket(after - 1, (SELECT firsts FROM columns)) + 1 AS high
        FROM gaps
        WHERE before IS NOT NULL AND NOT absent @> int8range(before + 1, after)
          AND after > (SELECT least(coalesce(lowest, -1), highest) FROM columns)
          AND before < (SELECT greatest(lowest, coalesce(highest, 9223372036854775807)) FROM columns)
    )
    SELECT before, after, (SELECT times FROM columns)[low], (SELECT lasts FROM columns)[low],
           (SELECT times FROM columns)[high], (SELECT firsts FROM columns)[high]
    FROM holes
"""


async def _find_trades(
    connection: Connection, symbol: str, holes: Sequence[_Hole], oldest: datetime, newest: datetime
) -> dict[int, datetime]:
    """By id: the minutes of the stored trades around holes.

    Needed if no candle gives their minutes, because the exchange's candles are stored there.
    """
    if not holes:
        return {}
    lows = [oldest if hole.low is None else hole.low for hole in holes]
    highs = [newest if hole.high is None else hole.high + MINUTE for hole in holes]
    rows: list[asyncpg.Record] = await connection.fetch(
        _TRADES_AROUND,
        symbol,
        [hole.before for hole in holes],
        [hole.after for hole in holes],
        lows,
        highs,
        min(lows),
        max(highs),
    )
    return {row["id"]: floor_minute(row["timestamp"]) for row in rows}


# Each trade is usually near its own end of the searched time, hence the two sort orders. The outermost bounds are
# passed as values ($6, $7), so that the planner opens only the partitions between them.
_TRADES_AROUND = """
    SELECT t.id, t.timestamp
    FROM unnest($2::bigint[], $3::bigint[], $4::timestamptz[], $5::timestamptz[]) AS h (before, after, low, high),
    LATERAL (
        (SELECT id, timestamp FROM trades
         WHERE symbol = $1 AND id = before AND timestamp >= low AND timestamp < high
           AND timestamp >= $6 AND timestamp < $7 ORDER BY timestamp LIMIT 1)
        UNION ALL
        (SELECT id, timestamp FROM trades
         WHERE symbol = $1 AND id = after AND timestamp >= low AND timestamp < high
           AND timestamp >= $6 AND timestamp < $7 ORDER BY timestamp DESC LIMIT 1)
    ) AS t
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
    """The cursor from which to fetch ``trade_id``, in nanoseconds: the time of the last stored trade before it.

    Trades have no index by id. Candles of source ``trades`` have one by their first id: the candles around the hole
    bound the time in which the last trade before it is searched. (The candle of the hole's own minute is usually the
    exchange's, because that one is fuller, and has no ids.) If retention has dropped the trades, the candle's minute
    is used. If it has dropped both, the time of the oldest trade in the ledger is used.
    """
    around = await pool.fetchrow(
        """
        SELECT
            (SELECT timestamp FROM candles WHERE symbol = $1 AND first_trade_id < $2
             ORDER BY first_trade_id DESC LIMIT 1) AS low,
            (SELECT timestamp + interval '1 minute' FROM candles WHERE symbol = $1 AND first_trade_id > $2
             ORDER BY first_trade_id LIMIT 1) AS high,
            oldest_timestamp AS oldest, newest_timestamp AS newest
        FROM (SELECT) AS always LEFT JOIN data_sync_status ON symbol = $1 AND data_type = 'trades'
        """,
        symbol,
        trade_id,
    )
    assert around is not None
    low = around["low"] or around["oldest"]
    if low is None:
        return 0
    # The bounds are passed as values, so that the planner opens, and locks, only the partitions between them.
    moment: datetime | None = await pool.fetchval(
        """
        SELECT timestamp FROM trades
        WHERE symbol = $1 AND id < $2 AND timestamp >= $3 AND timestamp < $4 ORDER BY timestamp DESC LIMIT 1
        """,
        symbol,
        trade_id,
        low,
        around["high"] or around["newest"] + MINUTE,
    )
    return unix_ns((moment or low) - CLOCK_SLACK)


async def locate(pool: asyncpg.Pool, symbol: str, hole: IdRange) -> HoleSpan:
    """When the trades of one hole were made: between the trade before it and the trade after it."""
    since = await since_before(pool, symbol, hole[0])
    start = utc_from_unix_ns(since) + (CLOCK_SLACK if since else timedelta())
    end = await _first_after(pool, symbol, hole[1], start - CLOCK_SLACK)
    return HoleSpan(since, start, max(end, start))


async def _first_after(pool: asyncpg.Pool, symbol: str, trade_id: int, start: datetime) -> datetime:
    """Time of the first stored trade from ``start`` on with this id or a higher one."""
    end: datetime | None = await pool.fetchval(
        """
        SELECT coalesce(
            (SELECT timestamp FROM candles WHERE symbol = $1 AND first_trade_id >= $2 ORDER BY first_trade_id LIMIT 1),
            (SELECT newest_timestamp FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'))
        """,
        symbol,
        trade_id,
    )
    if end is None:
        return start
    moment: datetime | None = await pool.fetchval(
        """
        SELECT timestamp FROM trades
        WHERE symbol = $1 AND id >= $2 AND timestamp >= $3 AND timestamp < $4 ORDER BY timestamp LIMIT 1
        """,
        symbol,
        trade_id,
        start,
        end + MINUTE,
    )
    return moment or end
