"""The cursor from which fetching a symbol's trades continues: ``last_kraken_since`` of ``data_sync_status``."""

import asyncpg

from kraken_history.completeness.status_rows import update_row
from kraken_history.database.connections import Connection


async def read_resume_point(pool: asyncpg.Pool | Connection, symbol: str) -> int:
    """The cursor of REST Trades, in nanoseconds; 0 if nothing was fetched yet."""
    since: int | None = await pool.fetchval(
        "SELECT last_kraken_since FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'", symbol
    )
    return since or 0


async def set_resume_point(connection: asyncpg.Pool | Connection, symbol: str, since: int) -> None:
    """Record the cursor, in nanoseconds."""
    await update_row(connection, symbol, "trades", "last_kraken_since = $3", since)
