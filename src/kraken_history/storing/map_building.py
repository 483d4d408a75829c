"""Keeps ``minute_maps`` exact: deletes the maps of days whose candles change, and makes the missing ones.

A map is made in a transaction that holds the symbol's lock, from the candles that are committed then. Every write of
candles deletes the maps of the days that it changed after it has the same lock. So a write either has committed before,
and the map has its candles, or it finds the map and deletes it.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg

from kraken_history.completeness.hole_search import DAY
from kraken_history.completeness.minute_maps import MAPS_OF_CANDLES
from kraken_history.database.connections import Connection, write_again
from kraken_history.intervals import bucket_start
from kraken_history.storing.announcing import announced_transaction
from kraken_history.storing.ledger_writing import lock_symbol

SETTLED_AFTER = timedelta(hours=1)
"""How long after its end a day gets its map: until then, late trades often change it."""

_DAYS_AT_ONCE = 31  # per transaction, which holds the symbol's lock for tens of milliseconds
_LOCK_TIMEOUT_MS = 1_000  # longest wait for a writer, such as an import; after it, the next run tries again

DELETE_MAPS = """
    DELETE FROM minute_maps m
    USING unnest({symbols}::text[], {starts}::timestamptz[], {ends}::timestamptz[]) AS w (symbol, start_time, end_time)
    WHERE m.symbol = w.symbol AND m.day > w.start_time - interval '24 hours' AND m.day < w.end_time
"""
"""A statement that deletes the maps of the days of changed hours, given as ranges. The symbols must be locked."""


async def delete_maps(connection: Connection, symbol: str, days: Sequence[datetime]) -> None:
    """Delete the maps of these days, which begin in UTC. The symbol must be locked."""
    await connection.execute("DELETE FROM minute_maps WHERE symbol = $1 AND day = ANY ($2)", symbol, days)


async def delete_dropped_maps(connection: Connection, start: datetime, end: datetime) -> None:
    """Delete the maps of ``[start, end)`` for all symbols, in the transaction that drops its candles."""
    await connection.execute(_DELETE_DROPPED, start, end)


async def remove_wrong_maps(pool: asyncpg.Pool, symbol: str, days: Sequence[datetime]) -> None:
    """Delete the maps of these days, in a transaction, so that they are made again."""

    async def once() -> None:
        async with pool.acquire() as connection, announced_transaction(connection):
            await lock_symbol(connection, symbol)
            await delete_maps(connection, symbol, days)

    await write_again(once)


async def build_missing_maps(pool: asyncpg.Pool, *, now: datetime, most_days: int = 100_000) -> int:
    """Make the missing maps of all days with history that have ended; return how many were made.

    A symbol that another writer has locked is left to the next call.

    Args:
        now: The time, or an earlier one. A day gets its map an hour after its end.
        most_days: Return after so many.
    """
    until = bucket_start(now - SETTLED_AFTER, DAY)
    made = 0
    for row in await pool.fetch("SELECT symbol FROM data_sync_status WHERE data_type = 'candles_1m' ORDER BY symbol"):
        for days in _pieces(await _missing_days(pool, row["symbol"], until, most_days - made)):
            try:
                made += await _build(pool, row["symbol"], days)
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                break
        if made >= most_days:
            break
    return made


def _pieces(days: Sequence[datetime]) -> list[list[datetime]]:
    """The days, which are in order, cut into runs without a day between them."""
    pieces: list[list[datetime]] = []
    for day in days:
        if pieces and pieces[-1][-1] + DAY == day and len(pieces[-1]) < _DAYS_AT_ONCE:
            pieces[-1].append(day)
        else:
            pieces.append([day])
    return pieces


async def _missing_days(pool: asyncpg.Pool, symbol: str, until: datetime, most: int) -> list[datetime]:
    return [row["day"] for row in await pool.fetch(_MISSING, until, symbol, most)]


async def _build(pool: asyncpg.Pool, symbol: str, days: Sequence[datetime]) -> int:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
        await lock_symbol(connection, symbol)
        made = await connection.execute(_BUILD, symbol, days[0], days[-1] + DAY, days)
    return int(made.rpartition(" ")[2])


# The newest days first, because most reads are of these. Dropped time has no candles that count.
_MISSING = """
    SELECT day FROM (
        SELECT d.day
        FROM data_sync_status s
        CROSS JOIN LATERAL generate_series(
            date_bin('1 day', s.oldest_timestamp, '2000-01-03 00:00:00+00'),
            least(s.newest_timestamp, $1::timestamptz - interval '1 second'), interval '24 hours'
        ) AS d (day)
        WHERE s.symbol = $2 AND s.data_type = 'candles_1m'
          AND NOT EXISTS (SELECT FROM minute_maps m WHERE m.symbol = $2 AND m.day = d.day)
          AND NOT EXISTS (
              SELECT FROM dropped_ranges
              WHERE relation = 'candles' AND tstzrange(d.day, d.day + interval '24 hours') <@ ranges
          )
        ORDER BY d.day DESC LIMIT $3
    ) AS newest ORDER BY day
"""

_BUILD = f"""
    INSERT INTO minute_maps (symbol, day, built, sent, imported)
    SELECT $1, w.day, m.built, m.sent, m.imported
    FROM unnest($4::timestamptz[]) AS w (day) LEFT JOIN ({MAPS_OF_CANDLES}) AS m USING (day)
    ON CONFLICT DO NOTHING
"""  # noqa: S608 — constants are put in

# Each symbol by the index: the table has a row per symbol and day.
_DELETE_DROPPED = """
    DELETE FROM minute_maps m USING (SELECT DISTINCT symbol FROM data_sync_status) AS s
    WHERE m.symbol = s.symbol AND m.day > $1::timestamptz - interval '24 hours' AND m.day < $2
"""
