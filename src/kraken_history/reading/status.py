"""What is stored, how far it reaches, and whether the database is well."""

import asyncio
import time
from datetime import datetime
from typing import TypedDict

from msgspec import Struct

from kraken_history.errors import HistoryError
from kraken_history.kraken.pairs import checked_name, find_symbol, is_ours
from kraken_history.reading.candles import require_symbol
from kraken_history.reading.database import Database
from kraken_history.reading.names import by_any_name, read_symbols

LONGEST_ANSWER_S = 10.0
"""A database that takes longer is not well."""


class SyncStatus(Struct, frozen=True):
    """What is stored of one symbol.

    Attributes:
        total_trades: Stored trades.
        missing_trades: Ids between the lowest and the highest stored that are neither stored nor proven not
            to exist; none means that nothing was lost in between.
        last_sync_at: When something was last stored.
    """

    symbol: str
    oldest_timestamp: datetime | None
    newest_timestamp: datetime | None
    last_sync_at: datetime
    total_trades: int
    missing_trades: int
    total_candles: int


class DataRange(TypedDict):
    """Which one-minute candles there are of a symbol.

    ``oldest`` and ``newest`` are open times, None if there is no candle.
    """

    oldest: datetime | None
    newest: datetime | None
    total_candles: int


class Health(Struct, frozen=True):
    """How a database does.

    Attributes:
        is_healthy: It answers, and has this code's schema.
        reason: What is wrong, in one line; empty if nothing is.
        latency_s: How long the answer took, in seconds.
        server: Name and version of the server; empty if it does not answer.
        newest_timestamp: Time of the newest stored trade of any symbol; None if there is none.
    """

    is_healthy: bool
    reason: str
    latency_s: float
    server: str
    newest_timestamp: datetime | None


async def read_sync_status(database: Database, symbol: str) -> SyncStatus | None:
    """What is stored of a symbol, under any of its names; None if nothing is."""
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
           coalesce(sum((
               SELECT sum(upper(hole) - lower(hole))
               FROM unnest(ledger_holes(s.id_ranges, s.absent_id_ranges)) AS hole
           )), 0)::bigint AS missing_trades,
           coalesce(sum(s.total_records) FILTER (WHERE data_type = 'candles_1m'), 0)::bigint AS total_candles
    FROM data_sync_status s WHERE s.symbol = $1 HAVING count(*) > 0
"""


@by_any_name
async def read_data_range(database: Database, symbol: str) -> DataRange:
    """Which one-minute candles there are, counted."""
    [row] = await database.fetch(_DATA_RANGE, symbol)
    if row["oldest"] is None:
        await require_symbol(database, symbol)
    return DataRange(oldest=row["oldest"], newest=row["newest"], total_candles=row["total_candles"])


_DATA_RANGE = """
    SELECT min(timestamp) AS oldest, max(timestamp) AS newest, count(*) AS total_candles
    FROM candles WHERE symbol = $1 AND interval_minutes = 1
"""


async def check_health(database: Database) -> Health:
    """How the database does; says so rather than raising."""
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
    return Health(True, "", time.perf_counter() - started, row["server"], row["newest"])


_HEALTH = """
    SELECT 'PostgreSQL ' || current_setting('server_version') || coalesce(
               (SELECT ' with TimescaleDB ' || extversion FROM pg_extension WHERE extname = 'timescaledb'), ''
           ) AS server,
           (SELECT max(newest_timestamp) FROM data_sync_status WHERE data_type = 'trades') AS newest
"""
