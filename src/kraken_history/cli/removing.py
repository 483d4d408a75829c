"""``remove-trade``: take a stored trade out, and rebuild what was made from it."""

import asyncio
import sys
from collections.abc import Sequence
from datetime import datetime

import asyncpg

from kraken_history.cli import servers as server_choice
from kraken_history.cli.instants import instant
from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import check_schema
from kraken_history.database.stored_symbols import fetch_stored_symbols
from kraken_history.errors import UsageError
from kraken_history.intervals import bucket_end
from kraken_history.kraken.pairs import find_stored
from kraken_history.records import MINUTE, TimeRange
from kraken_history.settings import Settings
from kraken_history.storing.aggregates import GRACE, refresh
from kraken_history.storing.longer_intervals import AGGREGATES, Aggregate
from kraken_history.storing.repair import remove_trade, replace_longer, sole_repairer

_WAIT_S = 600.0  # how long to wait for a refresh by the worker to end


def run_remove(settings: Settings, name: str, trade_id: int, reason: str) -> None:
    """Remove the trade, and say what was done."""
    with server_choice.database(settings) as database_url:
        symbol, times = asyncio.run(remove(database_url, name, trade_id, reason))
    sys.stdout.write(
        f"removed trade {trade_id} of {symbol} at {instant(times[0])}, kept in the table removed_trades;"
        " its candles are built again\n"
    )


async def remove(database_url: str, name: str, trade_id: int, reason: str) -> tuple[str, Sequence[datetime]]:
    """Remove a trade; return its symbol and its time.

    Raises:
        UsageError: No such trade is stored, or the user of the database does not own the tables.
        RepairIsRunning, RefreshIsRunning: Another process repairs, or a refresh did not end in time.
    """
    async with await create_pool(database_url, min_size=1, max_size=3) as pool:
        async with pool.acquire() as connection:
            await check_schema(connection)
            symbol = find_stored(name, await fetch_stored_symbols(connection))
        try:
            async with sole_repairer(pool):
                times = await remove_trade(pool, symbol, trade_id, reason)
                if not times:
                    raise UsageError(f"no trade {trade_id} of {symbol} is stored: `export --trades` shows the ids")
                await refresh(pool, wait_s=_WAIT_S)
                await replace_longer(pool, await _closed_buckets(pool, symbol, times), {}, wait_s=_WAIT_S)
        except asyncpg.InsufficientPrivilegeError as error:
            raise UsageError(
                f"expected the owner of the tables ({error}): use the URL of the user who migrates"
            ) from error
    return symbol, times


async def _closed_buckets(
    pool: asyncpg.Pool, symbol: str, times: Sequence[datetime]
) -> list[tuple[Aggregate, str, TimeRange]]:
    """The stored longer candles that contained the trade. A refresh never replaces one that has more trades."""
    closed_until = await pool.fetchval("SELECT now()") - GRACE
    return [
        (aggregate, symbol, TimeRange(moment, moment + MINUTE))
        for aggregate in AGGREGATES
        for moment in times
        if bucket_end(moment + MINUTE, aggregate.width) <= closed_until
    ]
