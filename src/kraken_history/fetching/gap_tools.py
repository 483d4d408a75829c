"""What a gap filler works with, and opening it for one that is used on its own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
from msgspec import Struct

from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import check_schema
from kraken_history.kraken.client import KrakenRest, Limiter
from kraken_history.kraken.limiter import LocalRateLimiter
from kraken_history.kraken.resolver import Resolver
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair

KRAKEN_REST_URL = "https://api.kraken.com"

FindPair = Callable[[str], Awaitable[Pair]]


class Tools(Struct, frozen=True):
    """An open database and client, and the look-up of pairs."""

    pool: asyncpg.Pool
    store: Store
    rest: KrakenRest
    find_pair: FindPair


@asynccontextmanager
async def open_tools(
    db_url: str, *, kraken_rest_url: str, limiter: Limiter | None, max_connections: int
) -> AsyncIterator[Tools]:
    """Open them for one gap filler.

    Args:
        limiter: Spaces the calls; by default one second apart per pair, within this process.
        max_connections: To the database.

    Raises:
        UsageError, ServiceUnavailable, SchemaMismatch: The database cannot be used.
    """
    async with await create_pool(db_url, min_size=1, max_size=max_connections) as pool:
        async with pool.acquire() as connection:
            await check_schema(connection)
        async with KrakenRest(kraken_rest_url, limiter or LocalRateLimiter()) as rest:
            yield Tools(pool, Store(pool), rest, Resolver(rest.fetch_asset_pairs).find)
