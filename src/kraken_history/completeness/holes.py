"""The missing trade ids: the holes in the ledger."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import asyncpg

from kraken_history.completeness.absence import find_waiting
from kraken_history.completeness.unreachable import find_unreachable, find_unreachable_of
from kraken_history.database.connections import Connection
from kraken_history.database.time_bounds import DAY, within
from kraken_history.ledger import IdRange, IdRanges

_SLICE = 500
"""Holes per symbol that one query of :func:`find_newest_due_holes` reads."""

_MOST = 100
"""Due ranges per symbol at which it reads no more of them."""


async def find_holes(pool: asyncpg.Pool, symbols: Sequence[str] | None = None) -> dict[str, IdRanges]:
    """By symbol, the missing ids; symbols without a hole are left out.

    Args:
        symbols: Only these; all by default.
    """
    rows = await pool.fetch(_HOLES, None if symbols is None else list(symbols))
    return {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["ids"]) for row in rows}


_MISSING = """CASE
    WHEN u.missing = u.stop_id - u.first_id THEN int8multirange(int8range(u.first_id, u.stop_id))
    ELSE missing_within(u.symbol, u.first_id, u.stop_id) END"""

_HOLES = f"""
    SELECT u.symbol, range_agg(r) AS ids FROM unheld_ids u CROSS JOIN LATERAL unnest({_MISSING}) AS r
    WHERE u.missing > 0 AND ($1::text[] IS NULL OR u.symbol = ANY ($1))
    GROUP BY u.symbol
"""  # noqa: S608 — a constant is put in


async def count_missing(pool: asyncpg.Pool) -> dict[str, int]:
    """By symbol, the number of missing ids; 0 for a symbol without a hole."""
    rows = await pool.fetch(
        """
        SELECT k.symbol, coalesce(u.missing, 0) AS missing
        FROM sync_keys k LEFT JOIN (
            SELECT symbol, sum(missing)::bigint AS missing FROM unheld_ids GROUP BY symbol
        ) AS u USING (symbol)
        WHERE k.data_type = 'trades'
        """
    )
    return {row["symbol"]: row["missing"] for row in rows}


async def find_fetchable_holes(pool: asyncpg.Pool, symbols: Sequence[str] | None = None) -> dict[str, IdRanges]:
    """As :func:`find_holes`, without the ids that REST does not show."""
    return _without(await find_holes(pool, symbols), await find_unreachable(pool))


async def find_due_holes(
    pool: asyncpg.Pool, *, now: datetime, symbols: Sequence[str] | None = None
) -> dict[str, IdRanges]:
    """As :func:`find_fetchable_holes`, without the ids that a page passed over less than a minute ago."""
    return _without(await find_fetchable_holes(pool, symbols), await find_waiting(pool, now=now))


async def find_newest_due_holes(
    pool: asyncpg.Pool, *, now: datetime, symbols: Sequence[str] | None = None
) -> dict[str, IdRanges]:
    """As :func:`find_due_holes`, of each symbol only the newest ranges: 100 or more if it has so many."""
    found: dict[str, IdRanges] = {}
    if symbols is None:
        rows = await pool.fetch("SELECT symbol FROM sync_keys WHERE data_type = 'trades'")
        symbols = [row["symbol"] for row in rows]
    below = dict.fromkeys(symbols, 2**63 - 1)
    waiting, unreachable = await find_waiting(pool, now=now), await find_unreachable_of(pool, symbols)
    while below:
        rows = await pool.fetch(_NEWEST_HOLES, list(below), list(below.values()), _SLICE)
        further: dict[str, int] = {}
        for row in rows:
            symbol = row["symbol"]
            ids = IdRanges((r.lower, r.upper) for r in row["ids"])
            due = found.get(symbol, IdRanges()) | (ids - unreachable.get(symbol, IdRanges()))
            found[symbol] = due - waiting.get(symbol, IdRanges())
            if row["count"] == _SLICE and len(found[symbol].ranges) < _MOST:
                further[symbol] = row["lowest_stop"] - 1
        below = further
    return {symbol: ids for symbol, ids in found.items() if ids}


_NEWEST_HOLES = f"""
    SELECT w.symbol, h.ids, h.count, h.lowest_stop
    FROM unnest($1::text[], $2::bigint[]) AS w (symbol, below)
    CROSS JOIN LATERAL (
        SELECT range_agg(r) AS ids, count(DISTINCT u.stop_id) AS count, min(u.stop_id) AS lowest_stop
        FROM (
            SELECT * FROM unheld_ids
            WHERE symbol = w.symbol AND missing > 0 AND stop_id <= w.below ORDER BY stop_id DESC LIMIT $3
        ) AS u
        CROSS JOIN LATERAL unnest({_MISSING}) AS r
    ) AS h
    WHERE h.ids IS NOT NULL
"""  # noqa: S608 — a constant is put in


def _without(found: Mapping[str, IdRanges], others: Mapping[str, IdRanges]) -> dict[str, IdRanges]:
    holes = {symbol: missing - others.get(symbol, IdRanges()) for symbol, missing in found.items()}
    return {symbol: missing for symbol, missing in holes.items() if missing}


async def missing_of(pool: asyncpg.Pool, symbol: str, ids: IdRange) -> IdRanges:
    """The ids of this range that are neither held nor absent, and that REST may show."""
    ranges = await pool.fetchval("SELECT missing_within($1, $2, $3)", symbol, *ids)
    unreachable = await find_unreachable_of(pool, [symbol])
    return IdRanges((r.lower, r.upper) for r in ranges or ()) - unreachable.get(symbol, IdRanges())


async def find_held_to(pool: asyncpg.Pool, symbol: str, trade_id: int) -> int:
    """The first id after ``trade_id`` that is neither stored nor absent."""
    held_to: int | None = await pool.fetchval(_HELD_TO, symbol, trade_id)
    return trade_id + 1 if held_to is None else held_to


# The first missing id is in the first hole that ends after the trade, or, if none does, after the highest id and the
# absent ones that follow it.
_HELD_TO = """
    SELECT CASE WHEN $2 BETWEEN s.lowest_id AND s.highest_id THEN coalesce((
        SELECT lower(missing_within($1, greatest(first_id, $2 + 1), stop_id)) FROM unheld_ids
        WHERE symbol = $1 AND missing > 0 AND stop_id > $2 + 1
          AND NOT isempty(missing_within($1, greatest(first_id, $2 + 1), stop_id))
        ORDER BY stop_id LIMIT 1
    ), (
        SELECT stop_id FROM absent_ids WHERE symbol = $1 AND first_id = s.highest_id + 1
    ), s.highest_id + 1) END
    FROM data_sync_status s
    WHERE s.symbol = $1 AND s.data_type = 'trades' AND s.generation = newest_generation($1, 'trades')
"""


async def find_newest_ids(pool: asyncpg.Pool, symbols: Sequence[str]) -> dict[str, int]:
    """By symbol, the highest stored id; symbols without a trade are left out."""
    rows = await pool.fetch(
        """
        SELECT symbol, highest_id AS id FROM data_sync_status
        WHERE symbol = ANY ($1) AND data_type = 'trades' AND highest_id IS NOT NULL
        """,
        symbols,
    )
    return {row["symbol"]: row["id"] for row in rows}


async def find_newest_held(pool: asyncpg.Pool | Connection, symbol: str, until: datetime) -> datetime | None:
    """Time of the newest stored trade up to ``until``. If later ones are stored, searches only the hour before it."""
    since = until - _SEARCHED
    newest: datetime | None = await pool.fetchval(
        _NEWEST_HELD.format(within=within("timestamp", since, until, DAY)), symbol, until, since
    )
    return newest


_SEARCHED = timedelta(hours=1)

# The index of trades begins with the time. If a symbol was traded just now, but not in the hour before, searching
# further back would read the index entries of all other symbols.
_NEWEST_HELD = """
    SELECT CASE WHEN newest_timestamp <= $2 THEN newest_timestamp ELSE (
        SELECT timestamp FROM trades
        WHERE symbol = $1 AND timestamp <= $2 AND timestamp > $3 AND {within}
        ORDER BY timestamp DESC LIMIT 1
    ) END
    FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'
"""
