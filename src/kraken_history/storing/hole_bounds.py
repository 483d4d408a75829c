"""Looks up the times of the trades around missing ids that the ledger does not know yet.

It knows them of every hole that a write opened. It does not of those that an older version opened, and seldom of those
that a repair left. Until they are looked up, such a hole may be anywhere between the oldest and the newest trade.

Trades have no index by id, so all of a symbol are searched, a partition or chunk per statement, the newest first. What
was found is kept after each, so an interrupted search costs nothing but its time.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import asyncpg

from kraken_history.completeness.status_rows import lock_keys
from kraken_history.database.connections import write_again
from kraken_history.storing.partitions import find_pieces

Searched = Callable[[int, int], None]
"""Is called with the number of partitions or chunks that were searched, and of all."""


async def fill_hole_times(pool: asyncpg.Pool, *, on_searched: Searched | None = None) -> int:
    """Look up every time that is not known; return of how many runs of ids. Afterwards all are known.

    Where retention dropped the trade, its candle's minute is taken, and if there is none, the time of the oldest or
    the newest trade.
    """
    wanted = await pool.fetchval(_COUNT_UNKNOWN)
    if not wanted:
        return 0
    async with pool.acquire() as connection:
        pieces = {table: (await find_pieces(connection, table))[::-1] for table in ("trades", "candles")}
    total = sum(map(len, pieces.values()))
    searched = 0
    for table, query in (("trades", _FIND_TRADES), ("candles", _FIND_CANDLES)):
        for piece in pieces[table]:
            if not await pool.fetchval(_COUNT_UNKNOWN):
                return int(wanted)
            await _keep(pool, await fetch_of_piece(pool, query, piece.start, piece.end))
            searched += 1
            if on_searched is not None:
                on_searched(searched, total)
    for row in await pool.fetch(_UNKNOWN_SYMBOLS):
        await _write(pool, row["symbol"], _FILL_REST, ())
    return int(wanted)


async def fetch_of_piece(pool: asyncpg.Pool, query: str, *arguments: object) -> list[asyncpg.Record]:
    """Run a query on a short time, planned for its arguments: a generic plan would lock every partition or chunk."""
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        rows: list[asyncpg.Record] = await connection.fetch(query, *arguments)
        return rows


async def _keep(pool: asyncpg.Pool, rows: Sequence[asyncpg.Record]) -> None:
    found: dict[str, dict[int, datetime]] = {}
    for row in rows:
        found.setdefault(row["symbol"], {})[row["id"]] = row["timestamp"]
    for symbol, times in sorted(found.items()):
        await keep_times(pool, symbol, times)


async def keep_times(pool: asyncpg.Pool, symbol: str, times: Mapping[int, datetime]) -> None:
    """Note the times of stored trades, by id, with the runs of unheld ids beside them."""
    if times:
        await _write(pool, symbol, _FILL, (list(times), list(times.values())))


async def _write(pool: asyncpg.Pool, symbol: str, statement: str, arguments: Sequence[object]) -> None:
    async def once() -> None:
        async with pool.acquire() as connection, connection.transaction(isolation="read_committed"):
            await lock_keys(connection, [symbol])
            await connection.execute(statement, symbol, *arguments)

    await write_again(once)


_COUNT_UNKNOWN = "SELECT count(*) FROM unheld_ids WHERE after_time IS NULL OR before_time IS NULL"

_UNKNOWN_SYMBOLS = "SELECT DISTINCT symbol FROM unheld_ids WHERE after_time IS NULL OR before_time IS NULL"

_WANTED = """
    wanted AS MATERIALIZED (
        SELECT symbol, first_id - 1 AS id FROM unheld_ids WHERE after_time IS NULL
        UNION SELECT symbol, stop_id FROM unheld_ids WHERE before_time IS NULL
    )"""

# The symbols are an array, because segments of a compressed chunk that it excludes stay compressed.
_FIND_TRADES = f"""
    WITH {_WANTED}
    SELECT t.symbol, t.id, min(t.timestamp) AS timestamp
    FROM trades t JOIN wanted w ON w.symbol = t.symbol AND w.id = t.id
    WHERE t.timestamp >= $1 AND t.timestamp < $2 AND t.symbol = ANY (ARRAY(SELECT DISTINCT symbol FROM wanted))
    GROUP BY t.symbol, t.id
"""  # noqa: S608 — a constant is put in

_FIND_CANDLES = f"""
    WITH {_WANTED}
    SELECT w.symbol, w.id, c.timestamp
    FROM wanted w
    CROSS JOIN LATERAL (
        SELECT timestamp, last_trade_id FROM candles
        WHERE symbol = w.symbol AND interval_minutes = 1 AND timestamp >= $1 AND timestamp < $2
          AND first_trade_id <= w.id
        ORDER BY first_trade_id DESC LIMIT 1
    ) AS c
    WHERE c.last_trade_id >= w.id
"""  # noqa: S608 — a constant is put in

_FILL = """
    UPDATE unheld_ids u
    SET after_time = coalesce(u.after_time, k.after), before_time = coalesce(u.before_time, k.before)
    FROM (
        SELECT u.first_id, u.stop_id, a.timestamp AS after, b.timestamp AS before
        FROM unheld_ids u
        LEFT JOIN unnest($2::bigint[], $3::timestamptz[]) AS a (id, timestamp) ON a.id = u.first_id - 1
        LEFT JOIN unnest($2::bigint[], $3::timestamptz[]) AS b (id, timestamp) ON b.id = u.stop_id
        WHERE u.symbol = $1 AND (u.after_time IS NULL OR u.before_time IS NULL)
          AND (a.id IS NOT NULL OR b.id IS NOT NULL)
    ) AS k
    WHERE u.symbol = $1 AND u.stop_id = k.stop_id AND u.first_id = k.first_id
"""

_FILL_REST = """
    UPDATE unheld_ids u
    SET after_time = coalesce(u.after_time, s.oldest_timestamp),
        before_time = coalesce(u.before_time, s.newest_timestamp)
    FROM data_sync_status s
    WHERE u.symbol = $1 AND (u.after_time IS NULL OR u.before_time IS NULL) AND s.symbol = $1 AND s.data_type = 'trades'
"""
