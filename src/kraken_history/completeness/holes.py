"""The missing trade ids: the holes in the ledger."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import asyncpg

from kraken_history.completeness.absence import find_waiting
from kraken_history.completeness.unreachable import UNREACHABLE_IDS, find_unreachable
from kraken_history.database.connections import Connection
from kraken_history.database.time_bounds import DAY, within
from kraken_history.ledger import IdRange, IdRanges


async def find_holes(pool: asyncpg.Pool) -> dict[str, IdRanges]:
    """By symbol, the missing ids; symbols without a hole are left out."""
    rows = await pool.fetch(
        """
        SELECT symbol, ledger_holes(id_ranges, absent_id_ranges) AS holes
        FROM data_sync_status WHERE data_type = 'trades' AND NOT isempty(id_ranges)
        """
    )
    holes = {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["holes"] or ()) for row in rows}
    return {symbol: missing for symbol, missing in holes.items() if missing}


async def count_missing(pool: asyncpg.Pool) -> dict[str, int]:
    """By symbol, the number of missing ids; 0 for a symbol without a hole."""
    rows = await pool.fetch(
        """
        SELECT symbol, (
            SELECT coalesce(sum(upper(hole) - lower(hole)), 0)::bigint
            FROM unnest(ledger_holes(id_ranges, absent_id_ranges)) AS hole
        ) AS missing
        FROM data_sync_status WHERE data_type = 'trades'
        """
    )
    return {row["symbol"]: row["missing"] for row in rows}


async def find_fetchable_holes(pool: asyncpg.Pool) -> dict[str, IdRanges]:
    """As :func:`find_holes`, without the ids that REST does not show."""
    return _without(await find_holes(pool), await find_unreachable(pool))


async def find_due_holes(pool: asyncpg.Pool, *, now: datetime) -> dict[str, IdRanges]:
    """As :func:`find_fetchable_holes`, without the ids that a page passed over less than a minute ago."""
    return _without(await find_fetchable_holes(pool), await find_waiting(pool, now=now))


def _without(found: Mapping[str, IdRanges], others: Mapping[str, IdRanges]) -> dict[str, IdRanges]:
    holes = {symbol: missing - others.get(symbol, IdRanges()) for symbol, missing in found.items()}
    return {symbol: missing for symbol, missing in holes.items() if missing}


async def missing_of(pool: asyncpg.Pool, symbol: str, ids: IdRange) -> IdRanges:
    """The ids of this range that are neither held nor absent, and that REST may show."""
    ranges = await pool.fetchval(
        f"""
        SELECT int8multirange(int8range($2, $3)) - s.id_ranges - s.absent_id_ranges - {UNREACHABLE_IDS}
        FROM data_sync_status s WHERE s.symbol = $1 AND s.data_type = 'trades'
        """,  # noqa: S608 — a constant is put in
        symbol,
        *ids,
    )
    return IdRanges((r.lower, r.upper) for r in ranges or ())


async def find_held_to(pool: asyncpg.Pool, symbol: str, trade_id: int) -> int:
    """The first id after ``trade_id`` that is neither stored nor absent."""
    held_to: int | None = await pool.fetchval(
        """
        SELECT upper(held) FROM data_sync_status, unnest(id_ranges + absent_id_ranges) AS held
        WHERE symbol = $1 AND data_type = 'trades' AND held @> $2::bigint
        """,
        symbol,
        trade_id,
    )
    return trade_id + 1 if held_to is None else held_to


async def find_newest_ids(pool: asyncpg.Pool, symbols: Sequence[str]) -> dict[str, int]:
    """By symbol, the highest stored id; symbols without a trade are left out."""
    rows = await pool.fetch(
        """
        SELECT symbol, upper(id_ranges) - 1 AS id FROM data_sync_status
        WHERE symbol = ANY ($1) AND data_type = 'trades' AND NOT isempty(id_ranges)
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
