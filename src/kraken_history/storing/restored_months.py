"""Stores a month of an archive as it was: rows, ids, coverage and version, in one transaction."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
from msgspec import Struct

from kraken_history.completeness.covered_time import cover, cover_candles
from kraken_history.completeness.status_rows import update_row
from kraken_history.completeness.unheld import Run, extended
from kraken_history.completeness.unheld_rows import add_absent, remove_absent, replace_unheld
from kraken_history.database.connections import Connection, write_again
from kraken_history.errors import UsageError
from kraken_history.intervals import Span
from kraken_history.ledger import IdRanges
from kraken_history.months import Month
from kraken_history.records import TimeRange
from kraken_history.storing.announcing import announced_transaction
from kraken_history.storing.archived_months import read_versions, set_version
from kraken_history.storing.candle_changes import note_candles
from kraken_history.storing.contested import contest
from kraken_history.storing.ledger_writing import lock_symbol, read_held
from kraken_history.storing.partitions import ensure_partitions

_DAY = timedelta(days=1)


class Copied(Struct, frozen=True):
    """Rows for COPY.

    Attributes:
        columns: Names of the columns.
        blocks: Returns the rows as CSV, from the first on; it may be called again.
        rows: Number of rows.
        extent: Times of the first and the last row; None if there is none.
    """

    columns: Sequence[str]
    blocks: Callable[[], AsyncIterator[bytes]]
    rows: int
    extent: Span | None


class RestorableMonth(Struct, frozen=True):
    """A month of one symbol.

    Attributes:
        version: Version of the month in the archive.
        tables: By table, ``trades`` and ``candles``. One that is not archived is left out.
        held, absent: Trade ids that are stored, and that Kraken was shown not to have.
        covered_trades, covered_candles: Time that Kraken was asked about.
        contested: Minutes whose candle waits for a proof.
        hours: The hours that have candles.
    """

    symbol: str
    month: Month
    version: UUID
    tables: Mapping[str, Copied]
    held: IdRanges
    absent: IdRanges
    covered_trades: Sequence[Span]
    covered_candles: Sequence[Span]
    contested: Sequence[datetime]
    hours: Sequence[TimeRange]


async def restore_month(pool: asyncpg.Pool, wanted: RestorableMonth) -> bool:
    """Store a month; return False if the database has this version of it already.

    Raises:
        UsageError: The database has other rows, or ids, of this month.
    """
    for table, copied in wanted.tables.items():
        if copied.extent is not None:
            await _make_partitions(pool, table, copied.extent)

    async def once() -> bool:
        async with pool.acquire() as connection, announced_transaction(connection):
            await lock_symbol(connection, wanted.symbol)
            versions = await read_versions(connection, wanted.symbol)
            if versions.get(wanted.month) == wanted.version:
                return False
            await _require_nothing(connection, wanted)
            await _restore(connection, wanted)
            return True

    return await write_again(once)


async def _make_partitions(pool: asyncpg.Pool, table: str, extent: Span) -> None:
    days = (extent[1].date() - extent[0].date()).days
    await ensure_partitions(pool, table, [extent[0] + n * _DAY for n in range(days + 1)] + [extent[1]])


async def _require_nothing(connection: Connection, wanted: RestorableMonth) -> None:
    month = wanted.month
    arguments = wanted.symbol, month.start, month.end, wanted.held.as_multirange()
    if await connection.fetchval(_ANYTHING, *arguments):
        raise UsageError(
            f"expected a database without data of {wanted.symbol} {month}, got one that has some: restore into an"
            " empty database"
        )


_ANYTHING = """
    SELECT EXISTS (SELECT FROM trades WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3)
        OR EXISTS (
            SELECT FROM candles WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $2 AND timestamp < $3)
        OR coalesce(held_ids($1) && $4::text::int8multirange, false)
"""


async def _restore(connection: Connection, wanted: RestorableMonth) -> None:
    symbol = wanted.symbol
    if trades := wanted.tables.get("trades"):
        await connection.copy_to_table("trades", source=trades.blocks(), columns=trades.columns, format="csv")
        await _restore_ids(connection, wanted, trades.extent)
    for start, end in wanted.covered_trades:
        await cover(connection, symbol, TimeRange(start, end))
    if candles := wanted.tables.get("candles"):
        await connection.copy_to_table("candles", source=candles.blocks(), columns=candles.columns, format="csv")
        if candles.extent is not None:
            await note_candles(connection, {symbol: candles.extent}, {symbol: candles.rows}, {symbol: wanted.hours})
    for start, end in wanted.covered_candles:
        await cover_candles(connection, symbol, TimeRange(start, end))
    await contest(connection, [(symbol, minute) for minute in wanted.contested])
    for table in {"trades", "candles"} - wanted.tables.keys():  # retention had dropped it before it was archived
        await connection.execute(_NOTE_DROPPED, table, wanted.month.start, wanted.month.end)
    await set_version(connection, symbol, wanted.month, wanted.version)


async def _restore_ids(connection: Connection, wanted: RestorableMonth, extent: Span | None) -> None:
    """Add the ids of the restored trades, and the absent ones, to the ledger.

    Args:
        extent: Times of the oldest and the newest of the trades; None if there are none.
    """
    symbol, held = wanted.symbol, wanted.held
    if extent is not None:
        edges = {id_ for first, stop in held for id_ in (first, stop - 1)}
        rows = await connection.fetch(_TIMES_OF_IDS, symbol, *extent, list(edges))
        times = {row["id"]: row["timestamp"] for row in rows}
        runs = [Run(first, stop - 1, times.get(first), times.get(stop - 1)) for first, stop in held]
        before = (await read_held(connection, {symbol: held}))[symbol]
        change = extended(before.ends, before.unheld, runs)
        await replace_unheld(connection, {symbol: change})
        if before.touches_absent:
            await remove_absent(connection, {symbol: held})
        values = (*change.lowest, *change.highest, len(held), *extent)
        await update_row(connection, symbol, "trades", _EXTEND, *values)
    if wanted.absent:
        await add_absent(connection, {symbol: wanted.absent})


_TIMES_OF_IDS = """
    SELECT id, timestamp FROM trades
    WHERE symbol = $1 AND timestamp >= $2 AND timestamp <= $3 AND id = ANY ($4::bigint[])
"""

_EXTEND = """
    lowest_id = $3, lowest_time = $4, highest_id = $5, highest_time = $6, total_records = s.total_records + $7,
    oldest_timestamp = least(s.oldest_timestamp, $8), newest_timestamp = greatest(s.newest_timestamp, $9),
    last_sync_at = now()
"""

_NOTE_DROPPED = """
    INSERT INTO dropped_ranges AS d (relation, ranges) VALUES ($1, tstzmultirange(tstzrange($2, $3)))
    ON CONFLICT (relation) DO UPDATE SET ranges = d.ranges + excluded.ranges
"""
