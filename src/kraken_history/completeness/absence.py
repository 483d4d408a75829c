"""Trade ids that Kraken was shown not to have.

Kraken numbers the trades of a pair almost without holes. If two pages, requested at least a minute apart, pass over an
id, it counts as proven absent. Absent ids are stored separately from held ids. If the trade appears after all, it is
stored like any other, and ``store`` removes its id from the absent ones.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import asyncpg

from kraken_history.completeness.status_rows import lock_known_key
from kraken_history.completeness.unheld_rows import add_absent
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
    async with pool.acquire() as connection, connection.transaction(isolation="read_committed"):
        # The lock excludes store.write, which may be storing one of the ids.
        if not await lock_known_key(connection, symbol):
            return IdRanges()
        await connection.execute(_FORGET_FUTURE, symbol, seen_at + APART)
        rows = await connection.fetchval(_PROVEN, symbol, ids.as_multirange(), seen_at - APART)
        proven = IdRanges((r.lower, r.upper) for r in rows or ())
        if proven:
            await add_absent(connection, {symbol: proven})
        await connection.execute(_KEEP, symbol, ids.as_multirange(), seen_at)
        await connection.execute(_FORGET_KNOWN, symbol)
    return proven


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


# Noted by a host whose clock was ahead. It would keep the ids waiting until that time comes.
_FORGET_FUTURE = "DELETE FROM absence_evidence WHERE symbol = $1 AND seen_at > $2"

_PROVEN = """
    SELECT old.ids * unheld_within($1, lower(old.ids), upper(old.ids)) FROM (
        SELECT range_agg(r) * $2::text::int8multirange AS ids
        FROM absence_evidence, unnest(ids) AS r WHERE symbol = $1 AND seen_at <= $3
    ) AS old
"""

# Only ids that are missing and have no evidence yet.
_KEEP = """
    INSERT INTO absence_evidence AS e (symbol, seen_at, ids)
    SELECT $1, $3, fresh.ids FROM (
        SELECT given.ids * missing_within($1, lower(given.ids), upper(given.ids)) - coalesce(
            (SELECT range_agg(r) FROM absence_evidence, unnest(ids) AS r WHERE symbol = $1), '{}') AS ids
        FROM (SELECT $2::text::int8multirange AS ids) AS given
    ) AS fresh WHERE NOT isempty(fresh.ids)
    ON CONFLICT (symbol, seen_at) DO UPDATE SET ids = e.ids + excluded.ids
"""

# Deletes the evidence of ids that are not missing any more, so that evidence is bounded by the missing ids.
_FORGET_KNOWN = """
    WITH left_of AS MATERIALIZED (
        SELECT seen_at, ids * missing_within(symbol, lower(ids), upper(ids)) AS ids
        FROM absence_evidence WHERE symbol = $1
    ), gone AS (
        DELETE FROM absence_evidence e USING left_of l
        WHERE e.symbol = $1 AND e.seen_at = l.seen_at AND isempty(l.ids)
    )
    UPDATE absence_evidence e SET ids = l.ids
    FROM left_of l WHERE e.symbol = $1 AND e.seen_at = l.seen_at AND NOT isempty(l.ids) AND e.ids <> l.ids
"""
