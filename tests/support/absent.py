"""Makes ids absent, as two pages that pass over them, or a refusal, do."""

import asyncpg

from kraken_history.completeness.status_rows import lock_keys
from kraken_history.completeness.unheld_rows import add_absent
from kraken_history.ledger import IdRange, IdRanges


async def make_absent(pool: asyncpg.Pool, *ranges: IdRange, symbol: str = "BTC/USDT") -> None:
    """Make the ids of these half-open ranges absent, except those that are stored."""
    async with pool.acquire() as connection, connection.transaction():
        await lock_keys(connection, [symbol])
        await add_absent(connection, {symbol: IdRanges(ranges)})


async def absent_ids(pool: asyncpg.Pool, symbol: str = "BTC/USDT") -> list[IdRange]:
    """The runs of absent ids, in order."""
    rows = await pool.fetch("SELECT first_id, stop_id FROM absent_ids WHERE symbol = $1 ORDER BY first_id", symbol)
    return [(row["first_id"], row["stop_id"]) for row in rows]
