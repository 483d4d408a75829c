"""What the worker's jobs work with."""

import asyncpg
from msgspec import Struct, field

from kraken_history.fetching.queue import JobQueue
from kraken_history.kraken.client import KrakenRest
from kraken_history.settings import Settings
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair, PairMap


class Pairs:
    """Kraken's pairs: the default five at once, any other after asking AssetPairs, once."""

    def __init__(self, rest: KrakenRest) -> None:
        self._rest = rest
        self._known = PairMap()

    async def find(self, symbol: str) -> Pair:
        """The pair of a symbol.

        Raises:
            UnknownSymbol: Kraken does not list it.
            KrakenBusy, ServiceUnavailable: Kraken cannot be asked just now.
        """
        if symbol not in self._known:
            self._known = PairMap([*self._known, *await self._rest.fetch_asset_pairs()])
        return self._known.find(symbol)


class WorkerContext(Struct):
    """Opened when the worker starts, closed when it stops.

    Attributes:
        backfills: The symbols whose backfills this worker is at.
    """

    settings: Settings
    pool: asyncpg.Pool
    store: Store
    rest: KrakenRest
    pairs: Pairs
    jobs: JobQueue
    backfills: set[str] = field(default_factory=set)
