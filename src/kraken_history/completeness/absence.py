"""Trade ids that Kraken was shown not to have.

Kraken numbers the trades of a pair almost without holes. If two pages, requested at least a minute apart, pass over an
id, it counts as proven absent. Absent ids are stored separately from held ids. If the trade appears after all, it is
stored like any other, and ``store`` removes its id from the absent ones.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import asyncpg

from kraken_history.ledger import IdRanges

APART = timedelta(minutes=1)
"""Minimum time between two pages that together prove absence: one page, or a cached copy of it, proves nothing."""


async def note_passed_over(pool: asyncpg.Pool, symbol: str, ids: IdRanges, *, seen_at: datetime) -> IdRanges:
    """Record that a page, requested at ``seen_at``, passed over these ids; return those that are now proven absent.

    Ids that are held or absent already are ignored. The first evidence of an id keeps its time until the id is proven
    absent or stored.
    """
    if not ids:
        return ids
    async with pool.acquire() as connection, connection.transaction():
        # The lock excludes store.write, which may be storing one of the ids.
        locked = await connection.fetchval(_LOCK, symbol)
        if locked is None:
            return IdRanges()
        await connection.execute(_FORGET_FUTURE, symbol, seen_at + APART)
        proven = await connection.fetchval(_PROVE, symbol, ids.as_multirange(), seen_at - APART)
        await connection.execute(_KEEP, symbol, ids.as_multirange(), seen_at)
        await connection.execute(_FORGET_KNOWN, symbol)
    return IdRanges((r.lower, r.upper) for r in proven or ())


async def find_waiting(pool: asyncpg.Pool, *, now: datetime) -> Mapping[str, IdRanges]:
    """By symbol, the ids passed over less than :data:`APART` ago: another request now would prove nothing.

    Times in the future do not count: the clock that noted them was wrong.
    """
    rows = await pool.fetch(
        """
        SELECT symbol, range_agg(r) AS ids FROM absence_evidence, unnest(ids) AS r
        WHERE seen_at > $1 AND seen_at <= $2 GROUP BY symbol
        """,
        now - APART,
        now + APART,
    )
    return {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["ids"]) for row in rows}


_LOCK = "SELECT symbol FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades' FOR UPDATE"

# Noted by a host whose clock was ahead. It would keep the ids waiting until that time comes.
_FORGET_FUTURE = "DELETE FROM absence_evidence WHERE symbol = $1 AND seen_at > $2"

_PROVE = """
    WITH old AS (
        SELECT coalesce(range_agg(r), '{}') * $2::text::int8multirange AS ids
        FROM absence_evidence, unnest(ids) AS r WHERE symbol = $1 AND seen_at <= $3
    )
    UPDATE data_sync_status s SET absent_id_ranges = s.absent_id_ranges + (old.ids - s.id_ranges)
    FROM old WHERE s.symbol = $1 AND s.data_type = 'trades' AND NOT isempty(old.ids - s.id_ranges)
    RETURNING old.ids - s.id_ranges
"""

# Only ids that are missing and have no evidence yet.
_KEEP = """
    INSERT INTO absence_evidence AS e (symbol, seen_at, ids)
    SELECT $1, $3, fresh.ids FROM (
        SELECT $2::text::int8multirange - s.id_ranges - s.absent_id_ranges - coalesce(
            (SELECT range_agg(r) FROM absence_evidence, unnest(ids) AS r WHERE symbol = $1), '{}') AS ids
        FROM data_sync_status s WHERE s.symbol = $1 AND s.data_type = 'trades'
    ) AS fresh WHERE NOT isempty(fresh.ids)
    ON CONFLICT (symbol, seen_at) DO UPDATE SET ids = e.ids + excluded.ids
"""

# Deletes the evidence of ids that are not missing any more, so that evidence is bounded by the missing ids.
_FORGET_KNOWN = """
    WITH known AS (
        SELECT id_ranges + absent_id_ranges AS ids FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'
    ), gone AS (
        DELETE FROM absence_evidence e USING known WHERE e.symbol = $1 AND isempty(e.ids - known.ids)
    )
    UPDATE absence_evidence e SET ids = e.ids - known.ids
    FROM known WHERE e.symbol = $1 AND e.ids && known.ids AND NOT isempty(e.ids - known.ids)
"""
