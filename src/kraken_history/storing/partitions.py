"""Creates partitions if the server does not do so itself: before rows are written, and some days ahead.

A statement locks every partition or chunk that it may read. :func:`find_pieces` lets one over years go piece by piece.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg

from kraken_history.clock import utc_now
from kraken_history.database.connections import Connection
from kraken_history.database.migrations import HYPERTABLES, kept_capabilities
from kraken_history.records import TimeRange

DAYS_AHEAD = 7

_PARTITIONED = ("trades", "candles", "external_indicators")


async def ensure_partitions(connection: asyncpg.Pool | Connection, table: str, moments: Sequence[datetime]) -> int:
    """Create the partitions that rows of these times need; return how many were missing.

    Do not call this in a transaction that writes, because it would hold the locks until its end. Hypertables need no
    partitions.
    """
    made: int = await connection.fetchval("SELECT ensure_partitions($1, $2)", table, moments)
    return made


async def make_partitions_ahead(pool: asyncpg.Pool, *, now: datetime | None = None) -> int:
    """Create the partitions of today and the next :data:`DAYS_AHEAD` days; return how many were missing."""
    today = utc_now() if now is None else now
    days = [today + timedelta(days=n) for n in range(DAYS_AHEAD + 1)]
    return sum([await ensure_partitions(pool, table, days) for table in _PARTITIONED])


async def find_pieces(connection: Connection, table: str) -> list[TimeRange]:
    """The time of each partition or chunk of a table, oldest first."""
    query = _CHUNKS if HYPERTABLES in await kept_capabilities(connection) else _PARTITIONS
    return sorted(TimeRange(row["start"], row["end"]) for row in await connection.fetch(query, table))


_CHUNKS = """
    SELECT range_start AS start, range_end AS end FROM timescaledb_information.chunks
    WHERE hypertable_schema = current_schema AND hypertable_name = $1
"""

_PARTITIONS = r"""
    SELECT bounds[1]::timestamptz AS start, bounds[2]::timestamptz AS end
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid), $$FROM \('(.+)'\) TO \('(.+)'\)$$) AS bounds
    WHERE i.inhparent = $1::text::regclass AND bounds IS NOT NULL
"""
