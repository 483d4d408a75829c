"""``fetch-ohlc``: fetch the exchange's latest candles of each interval, within the limit shared with the worker."""

import asyncio
import sys
from collections.abc import Mapping, Sequence

import asyncpg
import typer

from kraken_history.cli import servers as server_choice
from kraken_history.cli.gaps import warnings_on_stderr
from kraken_history.cli.redis_away import connect_patiently
from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import check_schema
from kraken_history.errors import HistoryError
from kraken_history.fetching.longer_history import fetch_longer_history
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.limiter import RateLimiter
from kraken_history.kraken.pairs import checked_name
from kraken_history.kraken.resolver import Resolver
from kraken_history.runtime.processes import EXIT_FAILED
from kraken_history.settings import Settings, load_settings
from kraken_history.storing.store import Store


def run_command(names: Sequence[str]) -> None:
    """Check the names, fetch, and exit with 1 if a symbol failed."""
    for name in names:
        checked_name(name)
    settings = load_settings()
    with server_choice.endpoints(settings) as endpoints, warnings_on_stderr():
        failed = asyncio.run(_run(endpoints, settings, names or settings.symbols))
    raise typer.Exit(EXIT_FAILED if failed else 0)


async def _run(endpoints: server_choice.Endpoints, settings: Settings, names: Sequence[str]) -> int:
    """Fetch each symbol; return how many failed."""
    async with (
        await connect_patiently(endpoints.jobs_redis_url, settings) as redis,
        await create_pool(endpoints.database_url, min_size=1, max_size=2) as pool,
        KrakenRest(settings.kraken_rest_url, RateLimiter(redis, settings.pacing)) as rest,
    ):
        async with pool.acquire() as connection:
            await check_schema(connection)
        pairs = Resolver(rest.fetch_asset_pairs)
        return sum([not await _fetch(pool, rest, pairs, name) for name in names])


async def _fetch(pool: asyncpg.Pool, rest: KrakenRest, pairs: Resolver, name: str) -> bool:
    try:
        pair = await pairs.find(name)
        new = await fetch_longer_history(pool, Store(pool), rest, pair)
    except HistoryError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return False
    sys.stdout.write(f"{pair.symbol}: {_summary(new)}\n")
    return True


def _summary(new: Mapping[int, int]) -> str:
    texts = [f"{count} of {_INTERVALS[interval]}" for interval, count in sorted(new.items(), reverse=True) if count]
    return "new candles: " + ", ".join(texts) if texts else "no new candles"


_INTERVALS = {1440: "1d", 240: "4h", 60: "1h", 30: "30m", 15: "15m", 5: "5m", 1: "1m"}
