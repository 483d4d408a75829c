"""Versions of archived months: every write that changes trades or candles of such a month replaces its version.

A month has a version from the moment at which it is first archived. Registering it takes the symbol's lock, as every
writer does. So a writer either has committed before, and the archive's snapshot has its rows, or finds the row of the
month, and changes the version in its own transaction. A write of a month that was never archived finds no row.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from kraken_history.database.connections import Connection, write_again
from kraken_history.months import Month
from kraken_history.storing.ledger_writing import lock_symbol

NEW_VERSIONS = """
    UPDATE archived_months a SET version = gen_random_uuid()
    FROM unnest({symbols}::text[], {starts}::timestamptz[], {ends}::timestamptz[]) AS n (symbol, start_time, end_time)
    WHERE a.symbol = n.symbol
      AND a.month >= (date_trunc('month', n.start_time, 'UTC') AT TIME ZONE 'UTC')::date
      AND a.month <= ((n.end_time - interval '1 microsecond') AT TIME ZONE 'UTC')::date
"""
"""A statement that replaces the versions of changed months. The symbols must be locked.

Its parameters are parallel arrays: symbols, and the beginning and the end of changed hours.
"""


async def note_changed_trades(connection: Connection, symbol: str, times: Sequence[datetime]) -> None:
    """Replace the versions of the months of these times, for a write of trades that changes no candle.

    The symbol must be locked.
    """
    await connection.execute(_NOTE_TIMES, symbol, times)


_NOTE_TIMES = """
    UPDATE archived_months SET version = gen_random_uuid()
    WHERE symbol = $1 AND month IN (
        SELECT (date_trunc('month', changed, 'UTC') AT TIME ZONE 'UTC')::date FROM unnest($2::timestamptz[]) AS changed
    )
"""


async def register_months(pool: asyncpg.Pool, symbol: str, months: Sequence[Month]) -> None:
    """Give each of these months a version, unless it has one. Snapshots that begin afterwards may be archived."""

    async def once() -> None:
        async with pool.acquire() as connection, connection.transaction():
            await lock_symbol(connection, symbol)
            await connection.execute(_REGISTER, symbol, [month.first_day for month in months])

    known = await read_versions(pool, symbol)
    if not all(month in known for month in months):
        await write_again(once)


_REGISTER = "INSERT INTO archived_months (symbol, month) SELECT $1, unnest($2::date[]) ON CONFLICT DO NOTHING"


async def read_versions(connection: asyncpg.Pool | Connection, symbol: str) -> dict[Month, UUID]:
    """The versions of a symbol's months; a month that was never archived is left out."""
    rows = await connection.fetch("SELECT month, version FROM archived_months WHERE symbol = $1", symbol)
    return {Month.of_day(row["month"]): UUID(str(row["version"])) for row in rows}


async def set_version(connection: Connection, symbol: str, month: Month, version: UUID) -> None:
    """Give a month the version of the archive that it was restored from, in the transaction that restores it."""
    await connection.execute(_SET_VERSION, symbol, month.first_day, version)


_SET_VERSION = """
    INSERT INTO archived_months (symbol, month, version) VALUES ($1, $2, $3)
    ON CONFLICT (symbol, month) DO UPDATE SET version = excluded.version
"""

Versions = Mapping[tuple[str, Month], UUID]
"""Versions of months by symbol and month."""
