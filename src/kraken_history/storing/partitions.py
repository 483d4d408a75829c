"""Creates partitions if the server does not do so itself: before rows are written, and some days ahead."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg

from kraken_history.clock import utc_now
from kraken_history.database.connections import Connection

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
