"""The symbols stored in a database."""

import asyncpg

from kraken_history.database.connections import Connection


async def fetch_stored_symbols(source: asyncpg.Pool | Connection) -> list[str]:
    """All symbols with stored data, in alphabetical order."""
    rows = await source.fetch("SELECT DISTINCT symbol FROM data_sync_status ORDER BY symbol")
    return [row["symbol"] for row in rows]
