"""A gap filler on a database, and a simulated Kraken whose time a test moves."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime

import asyncpg
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.fetching.gaps import GapFiller
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.pairs import PairMap
from kraken_history.kraken.rest import Refusal
from kraken_history.records import utc_from_unix_ns
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair
from simulator import Simulator
from tests.support.exchanges import ManualClock

SYMBOL = "BTC/USDT"
PAIR = PairMap().find(SYMBOL)
_REFUSAL = Refusal()


class Counting:
    """Lets every call pass at once, and counts them by pair."""

    def __init__(self) -> None:
        self.calls = 0

    async def wait_for_turn(self, pair: str) -> None:
        """At once."""
        self.calls += 1

    async def note_refusal(self, pair: str, refusal: Refusal = _REFUSAL) -> float:
        """No pause."""
        return 0.0

    async def note_success(self, pair: str) -> None:
        """Nothing to note."""


MakeFiller = Callable[..., GapFiller]


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=6) as pool:
        yield pool


@pytest.fixture
def store(pool: asyncpg.Pool) -> Store:
    return Store(pool)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def now(clock: ManualClock) -> Callable[[], datetime]:
    """The simulated present."""
    return lambda: utc_from_unix_ns(clock())


@pytest.fixture
async def kraken(clock: ManualClock) -> AsyncIterator[Simulator]:
    """One busy book with 2,600 trades of six hours; it makes more when it is told to."""
    async with Simulator(
        symbols=[SYMBOL], emitting=False, history=2_600, history_hours=6, rest_burst=1_000_000, clock=clock
    ) as kraken:
        yield kraken


@pytest.fixture
def limiter() -> Counting:
    return Counting()


@pytest.fixture
async def rest(kraken: Simulator, limiter: Counting) -> AsyncIterator[KrakenRest]:
    async with KrakenRest(kraken.rest_url, limiter, attempts=1) as rest:
        yield rest


async def find_pair(symbol: str) -> Pair:
    return PairMap().find(symbol)


@pytest.fixture
def filler(pool: asyncpg.Pool, store: Store, rest: KrakenRest, now: Callable[[], datetime]) -> GapFiller:
    """Wants one day."""
    return GapFiller(pool, store, rest, find_pair, symbols=[SYMBOL], history_days=1, now=now, second_look_s=0.01)
