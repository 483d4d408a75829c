"""Partitions, where the server does not make them itself: before rows are written, and some days ahead."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg

from kraken_history.clock import utc_now
from kraken_history.database.connections import Connection

DAYS_AHEAD = 7

_PARTITIONED = ("trades", "candles", "external_indicators")


async def ensure_partitions(connection: asyncpg.Pool | Connection, table: str, moments: Sequence[datetime]) -> int:
    """Make the partitions of a table that rows of these times need; return how many were missing.

    In no transaction that writes: each of them holds locks until its end. Hypertables need none.
    """
    made: int = await connection.fetchval("SELECT ensure_partitions($1, $2)", table, moments)
    return made


async def make_partitions_ahead(pool: asyncpg.Pool, *, now: datetime | None = None) -> int:
    """Make the partitions of today and the :data:`DAYS_AHEAD` after it; return how many were missing."""
    today = utc_now() if now is None else now
    days = [today + timedelta(days=n) for n in range(DAYS_AHEAD + 1)]
    return sum([await ensure_partitions(pool, table, days) for table in _PARTITIONED])
