"""The stored data, its extent, and the health of the database."""

import asyncio
import time
from datetime import datetime
from typing import Literal, TypedDict

from msgspec import Struct

from kraken_history.database.connections import Connection
from kraken_history.errors import HistoryError
from kraken_history.kraken.pairs import checked_name, find_symbol, is_ours
from kraken_history.reading.candles import require_symbol
from kraken_history.reading.database import Database
from kraken_history.reading.names import by_any_name, read_symbols
from kraken_history.reading.replicas import REPLICA_LAG
from kraken_history.storing.partitions import find_pieces

LONGEST_ANSWER_S = 10.0
"""Longest response time of a healthy database, in seconds."""


class SyncStatus(Struct, frozen=True):
    """The stored data of one symbol.

    Attributes:
        total_trades: Stored trades.
        missing_trades: Ids between the lowest and the highest stored id that are neither stored nor proven not
            to exist. If it is 0, no trade in between was lost.
        last_sync_at: When data was last stored.
    """

    symbol: str
    oldest_timestamp: datetime | None
    newest_timestamp: datetime | None
    last_sync_at: datetime
    total_trades: int
    missing_trades: int
    total_candles: int


class DataRange(TypedDict):
    """The stored one-minute candles of a symbol.

    ``oldest`` and ``newest`` are open times, None if none is stored.
    """

    oldest: datetime | None
    newest: datetime | None
    total_candles: int


class Health(Struct, frozen=True):
    """The health of a database.

    Attributes:
        is_healthy: The database answers, and has the schema of this version of the code.
        reason: The problem, in one line; empty if there is none.
        latency_s: Time until the answer, in seconds.
        server: Name and version of the server; empty if it does not answer.
        newest_timestamp: Time of the newest stored trade of any symbol; None if there is none.
        replica_lag_s: If the server is a standby: seconds by which it is behind its primary, see
            :func:`~kraken_history.reading.replicas.read_replica_lag`; None if it is a primary.
    """

    is_healthy: bool
    reason: str
    latency_s: float
    server: str
    newest_timestamp: datetime | None
    replica_lag_s: float | None = None


async def read_sync_status(database: Database, symbol: str) -> SyncStatus | None:
    """The stored data of a symbol, under any of its names; None if nothing is stored."""
    name = checked_name(symbol)
    rows = await database.fetch(_SYNC_STATUS, name) if is_ours(name) else []
    if not rows:
        found = find_symbol(name, await read_symbols(database))
        rows = [] if found is None else await database.fetch(_SYNC_STATUS, found)
    return SyncStatus(**rows[0]) if rows else None


_SYNC_STATUS = """
    SELECT $1::text AS symbol, min(s.oldest_timestamp) AS oldest_timestamp,
           max(s.newest_timestamp) AS newest_timestamp, max(s.last_sync_at) AS last_sync_at,
           coalesce(sum(s.total_records) FILTER (WHERE data_type = 'trades'), 0)::bigint AS total_trades,
           (SELECT coalesce(sum(missing), 0) FROM unheld_ids WHERE symbol = $1)::bigint AS missing_trades,
           coalesce(sum(s.total_records) FILTER (WHERE data_type = 'candles_1m'), 0)::bigint AS total_candles
    FROM data_sync_status s WHERE s.symbol = $1 HAVING count(*) > 0
"""


@by_any_name
async def read_data_range(database: Database, symbol: str) -> DataRange:
    """The extent and the number of the stored one-minute candles, as the ledger has them.

    The ledger's extent also holds what retention dropped. Only if its end is not stored any more, candles are searched.
    """
    async with (
        database.connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        row = await connection.fetchrow(_DATA_RANGE, symbol)
        if row is not None and row["total_candles"] > 0:
            oldest = await _end_of_candles(connection, symbol, row["oldest"], "min")
            newest = await _end_of_candles(connection, symbol, row["newest"], "max")
            return DataRange(oldest=oldest, newest=newest, total_candles=row["total_candles"])
    await require_symbol(database, symbol)
    return DataRange(oldest=None, newest=None, total_candles=0)


async def _end_of_candles(
    connection: Connection, symbol: str, known: datetime, which: Literal["min", "max"]
) -> datetime | None:
    """``known`` if that candle is stored; else the oldest or the newest that is, searched piece by piece."""
    if await connection.fetchval(_IS_STORED, symbol, known):
        return known
    pieces = await find_pieces(connection, "candles")
    for piece in pieces if which == "min" else pieces[::-1]:
        found: datetime | None = await connection.fetchval(_END[which], symbol, piece.start, piece.end)
        if found is not None:
            return found
    return None


# What retention has dropped is subtracted from the ledger's count a moment later.
_DATA_RANGE = """
    SELECT oldest_timestamp AS oldest, newest_timestamp AS newest, (total_records - coalesce((
               SELECT sum(rows) FROM dropped_rows WHERE relation = 'candles' AND symbol = $1
           ), 0))::bigint AS total_candles
    FROM data_sync_status WHERE symbol = $1 AND data_type = 'candles_1m' AND oldest_timestamp IS NOT NULL
"""

_IS_STORED = "SELECT EXISTS (SELECT FROM candles WHERE symbol = $1 AND interval_minutes = 1 AND timestamp = $2)"

_END = {
    which: f"""
    SELECT {which}(timestamp) FROM candles
    WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $2 AND timestamp < $3
"""  # noqa: S608 — a constant is put in
    for which in ("min", "max")
}


async def check_health(database: Database) -> Health:
    """The health of the database; problems are reported in the result instead of raised."""
    started = time.perf_counter()
    try:
        async with asyncio.timeout(LONGEST_ANSWER_S):
            await database.open()
            [row] = await database.fetch(_HEALTH)
    except HistoryError as error:
        return Health(False, str(error), time.perf_counter() - started, "", None)
    except TimeoutError:
        reason = f"the database did not answer within {LONGEST_ANSWER_S:g} s"
        return Health(False, reason, time.perf_counter() - started, "", None)
    return Health(True, "", time.perf_counter() - started, row["server"], row["newest"], row["replica_lag_s"])


_HEALTH = f"""
    SELECT 'PostgreSQL ' || current_setting('server_version') || coalesce(
               (SELECT ' with TimescaleDB ' || extversion FROM pg_extension WHERE extname = 'timescaledb'), ''
           ) AS server,
           (SELECT max(newest_timestamp) FROM data_sync_status WHERE data_type = 'trades') AS newest,
           {REPLICA_LAG} AS replica_lag_s
"""  # noqa: S608 — a constant is put in
