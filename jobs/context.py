"""The resources that the worker's jobs share."""

import asyncpg
from msgspec import Struct, field
from redis.asyncio import Redis

from kraken_history.errors import HistoryError, UnknownSymbol
from kraken_history.fetching.queue import JobQueue
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.pairs import is_symbol
from kraken_history.kraken.resolver import Resolver
from kraken_history.runtime import telemetry
from kraken_history.settings import Settings
from kraken_history.storing.store import Store

_log = telemetry.get_logger("worker")


class WorkerContext(Struct):
    """Opened when the worker starts, closed when it stops.

    Attributes:
        pool: For statements that take seconds.
        long_pool: For statements that may take minutes, as in a refresh; None if ``pool`` has no limit.
        backfills: The symbols whose backfills this worker is running.
        names: Name in ``SYMBOLS`` → its symbol, for the names found so far.
        streams: The Redis of the streams and of the dead letters; None if it is that of the jobs.
        settled_to: The symbol up to which the last refresh settled contested minutes; empty to begin again.
    """

    settings: Settings
    pool: asyncpg.Pool
    store: Store
    rest: KrakenRest
    pairs: Resolver
    jobs: JobQueue
    long_pool: asyncpg.Pool | None = None
    backfills: set[str] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)
    streams: Redis | None = None
    settled_to: str = ""

    @property
    def unhurried_pool(self) -> asyncpg.Pool:
        """The pool for statements that may take minutes."""
        return self.pool if self.long_pool is None else self.long_pool

    @property
    def symbols(self) -> list[str]:
        """The symbols of the settings, each once. Names that only Kraken can resolve are left out until it has."""
        found = [self.names.get(name, name) for name in self.settings.symbols]
        return [symbol for symbol in dict.fromkeys(found) if is_symbol(symbol)]

    async def find_names(self) -> bool:
        """Find the symbols of the names in the settings; return False if one could not be looked up yet."""
        for name in self.settings.symbols:
            if name not in self.names:
                try:
                    self.names[name] = (await self.pairs.find(name)).symbol
                except UnknownSymbol as error:
                    _log.error("symbol_unknown", name=name, error=str(error))
                except HistoryError as error:
                    _log.warning("symbol_not_looked_up", name=name, error=str(error))
                    return False
        return True
