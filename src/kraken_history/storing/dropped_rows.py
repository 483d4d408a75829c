"""Keeps the row counts of ``data_sync_status`` right when retention drops rows.

The transaction that drops a partition locks tables that writers use, and writers hold their symbols' ledger rows. If it
locked these too, each would wait for the other. So it only records how many rows of each symbol go. They are subtracted
right after it, one symbol at a time; if that fails, the next run subtracts them.
"""

from datetime import datetime

import asyncpg

from kraken_history.database.connections import Connection

_LOCK_TIMEOUT_MS = 5_000  # longest wait for a writer, such as an import; after it, the next run subtracts


async def note_dropped_rows(connection: Connection, table: str, start: datetime, end: datetime) -> None:
    """Count the rows of ``[start, end)``, which are about to be dropped. Nobody may write them meanwhile."""
    await connection.execute(_NOTE[table], start, end)


async def subtract_dropped_rows(connection: Connection) -> None:
    """Subtract all recorded rows from the counts."""
    for row in await connection.fetch("SELECT DISTINCT relation, symbol FROM dropped_rows ORDER BY symbol, relation"):
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
                await connection.execute(_SUBTRACT, row["relation"], row["symbol"])
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            continue


_NOTE = {
    "trades": """
        INSERT INTO dropped_rows
        SELECT 'trades', symbol, count(*) FROM trades WHERE timestamp >= $1 AND timestamp < $2 GROUP BY symbol
    """,
    "candles": """
        INSERT INTO dropped_rows
        SELECT 'candles', symbol, count(*) FROM candles
        WHERE interval_minutes = 1 AND timestamp >= $1 AND timestamp < $2 GROUP BY symbol
    """,
}

_SUBTRACT = """
    WITH gone AS (DELETE FROM dropped_rows WHERE relation = $1 AND symbol = $2 RETURNING rows)
    UPDATE data_sync_status SET total_records = greatest(total_records - (SELECT sum(rows) FROM gone)::bigint, 0)
    WHERE symbol = $2 AND data_type = CASE $1 WHEN 'candles' THEN 'candles_1m' ELSE $1 END
"""
