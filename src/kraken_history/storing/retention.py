"""Drops old data, if retention is set.

Rows that a refresh of the longer intervals still needs are not dropped, whatever their age. Therefore this module drops
data itself: TimescaleDB's policies do not know which hours are marked.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
from msgspec import Struct

from kraken_history.database.connections import Connection
from kraken_history.database.migrations import CONTINUOUS_AGGREGATES, HYPERTABLES, kept_capabilities
from kraken_history.intervals import EARLIEST
from kraken_history.months import Month
from kraken_history.storing.aggregates import refresh, sole_refresher
from kraken_history.storing.dropped_rows import note_dropped_rows, subtract_dropped_rows
from kraken_history.storing.longer_intervals import AGGREGATES
from kraken_history.storing.map_building import delete_dropped_maps
from kraken_history.storing.partitions import find_pieces
from kraken_history.storing.stale_time import oldest_mark

OnPostponed = Callable[[str, str], object]
"""Called with the table, and the partition or chunk that could not be dropped because it is in use."""

Held = Mapping[tuple[str, str, Month], UUID]
"""What an archive provably holds: by table, symbol and month, the version of the month."""

OnKept = Callable[[str, str, str, Month], object]
"""Called with the table, the partition or chunk that is kept, and a symbol and month that the archive does not hold."""

_LOCK_TIMEOUT_MS = 5_000  # longest wait for a reader; after it, the next run tries again


class _Piece(Struct, frozen=True, order=True):
    """A partition or a chunk."""

    start: datetime
    end: datetime
    name: str


async def drop_old(
    pool: asyncpg.Pool,
    cutoffs: Mapping[str, datetime],
    *,
    now: datetime | None = None,
    on_postponed: OnPostponed = lambda *_: None,
    held: Held | None = None,
    on_kept: OnKept = lambda *_: None,
) -> dict[str, int]:
    """Drop data older than the cutoffs; return by table the number of dropped partitions, chunks or rows.

    Base tables lose whole partitions only, oldest first, and none that contains marked time.

    Args:
        cutoffs: By table or view.
        held: Base tables lose only what this archive holds, in its current version; None if there is no archive.

    Raises:
        RefreshIsRunning: A refresh is running, and may need the old rows.
    """
    dropped: dict[str, int] = {}
    await refresh(pool, now=now)
    async with sole_refresher(pool) as connection:
        capabilities = await kept_capabilities(connection)
        for table in ("trades", "candles"):
            if table in cutoffs:
                is_hypertable = HYPERTABLES in capabilities
                pieces = _Pieces(connection, table, is_hypertable, held, on_postponed, on_kept)
                dropped[table] = await pieces.drop(cutoffs[table])
        await subtract_dropped_rows(connection)
        for view in (aggregate.view for aggregate in AGGREGATES if aggregate.view in cutoffs):
            until = min(cutoffs[view], await oldest_mark(connection) or cutoffs[view])
            query = _DROP_CHUNKS if CONTINUOUS_AGGREGATES in capabilities else _DELETE_ROWS.format(table=f"{view}_rows")
            async with connection.transaction():
                dropped[view] = await connection.fetchval(query.format(view=view), until)
                if dropped[view]:  # without this record, the candles would have to be there: their minutes may be
                    await connection.execute(_NOTE_DROPPED, view, EARLIEST, until)
    return dropped


async def find_months_to_drop(pool: asyncpg.Pool, cutoffs: Mapping[str, datetime]) -> set[Month]:
    """The months of which :func:`drop_old` may drop trades or one-minute candles."""
    async with pool.acquire() as connection:
        return {
            month
            for table in ("trades", "candles")
            if table in cutoffs
            for piece in await find_pieces(connection, table)
            if piece.end <= cutoffs[table]
            for month in Month.between(piece.start, piece.end)
        }


class _Pieces(Struct):
    """Drops the partitions or chunks of one base table."""

    connection: Connection
    table: str
    is_hypertable: bool
    held: Held | None
    on_postponed: OnPostponed
    on_kept: OnKept

    async def drop(self, cutoff: datetime) -> int:
        """Drop those that end before the cutoff, oldest first, up to the first that must stay; return how many."""
        find = _find_chunks if self.is_hypertable else _find_partitions
        dropped = 0
        for piece in sorted(await find(self.connection, self.table)):
            if piece.end > cutoff:
                break
            try:
                is_dropped = await self._drop(piece)
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                self.on_postponed(self.table, piece.name)
                break
            if not is_dropped:
                break
            dropped += 1
        return dropped

    async def _drop(self, piece: _Piece) -> bool:
        """Drop one piece unless it contains marked time, or rows that the archive must hold and does not hold.

        Record that its time was dropped. The lock waits until running writers have committed, with their marks.
        """
        connection, table = self.connection, self.table
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
            await connection.execute(f"LOCK TABLE {piece.name} IN ACCESS EXCLUSIVE MODE")
            if table == "candles":
                mark = await oldest_mark(connection)
                if mark is not None and mark < piece.end:
                    return False
            if not await self._is_held(piece):
                return False
            await connection.execute(_NOTE_DROPPED, table, piece.start, piece.end)
            await note_dropped_rows(connection, table, piece.start, piece.end)
            if table == "candles":
                await delete_dropped_maps(connection, piece.start, piece.end)
            if self.is_hypertable:
                await connection.execute(_DROP_CHUNK, table, piece.start, piece.end)
            else:
                await connection.execute(f"DROP TABLE {piece.name}")
        return True

    async def _is_held(self, piece: _Piece) -> bool:
        """True if there is no archive, or it holds all rows of a piece."""
        if self.held is None:
            return True
        for row in await self.connection.fetch(_MONTHS_OF[self.table], piece.start, piece.end):
            month = Month.of_day(row["month"])
            if row["version"] is None or self.held.get((self.table, row["symbol"], month)) != row["version"]:
                self.on_kept(self.table, piece.name, row["symbol"], month)
                return False
        return True


_MONTHS_OF = {
    table: f"""
    SELECT r.symbol, r.month, a.version
    FROM (
        SELECT DISTINCT symbol, (date_trunc('month', timestamp, 'UTC') AT TIME ZONE 'UTC')::date AS month
        FROM {table} WHERE timestamp >= $1 AND timestamp < $2
    ) AS r LEFT JOIN archived_months a USING (symbol, month) ORDER BY 1, 2
"""  # noqa: S608 — a constant is put in
    for table in ("trades", "candles")
}


async def _find_chunks(connection: Connection, table: str) -> list[_Piece]:
    rows = await connection.fetch(
        """
        SELECT range_start, range_end, format('%I.%I', chunk_schema, chunk_name) AS name
        FROM timescaledb_information.chunks WHERE hypertable_schema = current_schema AND hypertable_name = $1
        """,
        table,
    )
    return [_Piece(row["range_start"], row["range_end"], row["name"]) for row in rows]


async def _find_partitions(connection: Connection, table: str) -> list[_Piece]:
    width = await connection.fetchval("SELECT width FROM partition_widths WHERE parent = $1", table)
    rows = await connection.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::text::regclass", table
    )
    named = [re.fullmatch(rf"{table}_(\d{{8}})", row["name"]) for row in rows]
    starts = {match[0]: datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC) for match in named if match}
    return [_Piece(start, start + width, name) for name, start in starts.items()]


# In the transaction that drops: time that lost its candles without this record would count as quiet.
_NOTE_DROPPED = """
    INSERT INTO dropped_ranges AS d (relation, ranges) VALUES ($1, tstzmultirange(tstzrange($2, $3)))
    ON CONFLICT (relation) DO UPDATE SET ranges = d.ranges + excluded.ranges
"""

_DROP_CHUNK = "SELECT drop_chunks($1::text::regclass, newer_than => $2::timestamptz, older_than => $3::timestamptz)"

_DROP_CHUNKS = "SELECT count(*) FROM drop_chunks('{view}', older_than => $1::timestamptz)"

_DELETE_ROWS = """
    WITH deleted AS (DELETE FROM {table} WHERE timestamp < $1 RETURNING 1) SELECT count(*) FROM deleted
"""
