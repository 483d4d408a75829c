"""The costs that :mod:`benchmarks.growth` measures, each as a function of one database.

A cost returns its figures by name; the ending of a name is the unit. Statements that write leave the database ready for
the next round.
"""

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from decimal import Decimal

import asyncpg

from benchmarks.histories import DAY, History
from kraken_history.completeness.hole_times import locate, since_before
from kraken_history.completeness.holes import count_missing, find_due_holes, find_newest_ids
from kraken_history.database.connections import Connection, create_pool
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.coverage import read_coverage
from kraken_history.reading.database import Database
from kraken_history.reading.gaps import GapsChoice
from kraken_history.reading.settling import Timing, read_settled
from kraken_history.reading.status import read_data_range, read_sync_status
from kraken_history.reading.strategy_reads import read_latest_over_gaps
from kraken_history.records import MINUTE, HistoricalTrade
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.retention import drop_old
from kraken_history.storing.store import Store

Figures = dict[str, float]
"""Figures by name, such as ``ms`` and ``locks``; none if the cost does not exist at this size."""

WRITTEN = 100
"""Trades of a write."""

_LATEST = 200
_WRITES = 5  # per round
_READS = 3


class Site:
    """One database with a history, and the ways into it.

    Attributes:
        size: The size that its figures belong to.
        newest_id: The newest stored id.
    """

    def __init__(
        self, size: int, history: History, pool: asyncpg.Pool, provider: HistoricalDataProvider, database: Database
    ) -> None:
        self.size = size
        self.history = history
        self.pool = pool
        self.provider = provider
        self.database = database
        self.store = Store(pool)
        self.newest_id = history.last_id if history.trades else 0
        self.newest_at = history.time_of(history.last_id) if history.trades else history.end

    @property
    def symbol(self) -> str:
        return self.history.symbol

    async def write(self, count: int = WRITTEN, *, lasting: timedelta = timedelta(seconds=6)) -> None:
        """Store the next trades, evenly spaced."""
        step = lasting / count
        trades = [
            HistoricalTrade(
                self.newest_id + n, self.symbol, self.newest_at + n * step, Decimal(60_000 + n), Decimal("0.5"), "buy",
                "market",
            )
            for n in range(1, count + 1)
        ]  # fmt: skip
        stored = await self.store.write(trades)
        assert stored.new_trades == count
        self.newest_id, self.newest_at = trades[-1].id, trades[-1].timestamp


Cost = Callable[[Site], Awaitable[Figures]]


@asynccontextmanager
async def open_site(size: int, history: History, url: str) -> AsyncIterator[Site]:
    """The connections to a database with this history."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(await create_pool(url, min_size=1, max_size=2))
        provider = await stack.enter_async_context(HistoricalDataProvider(url, 1, 2))
        database = Database(url, 1, 1)
        await database.open()
        stack.push_async_callback(database.close)
        yield Site(size, history, pool, provider, database)


def least_of(rounds: Iterable[Figures]) -> Figures:
    """The least figure of all rounds, by name."""
    least: Figures = {}
    for figures in rounds:
        for name, value in figures.items():
            least[name] = min(value, least.get(name, value))
    return least


async def durations_ms(work: Callable[[], Awaitable[object]], times: int) -> list[float]:
    """The duration of each call, in milliseconds."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        await work()
        found.append((time.perf_counter() - started) * 1e3)
    return found


async def fastest_ms(work: Callable[[], Awaitable[object]], times: int = _READS) -> float:
    """The duration of the fastest of some calls, in milliseconds: what else the machine does makes others slower."""
    return min(await durations_ms(work, times))


async def wal_position(pool: asyncpg.Pool) -> int:
    """Bytes of WAL that the server has made."""
    return int(await pool.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))


async def write(site: Site) -> Figures:
    """``store.write`` of 100 trades after the newest, of six seconds."""
    await site.write()  # plans are made, and the pages are written whole after a checkpoint, once
    sizes = []
    taken = []
    for _ in range(_WRITES):
        before = await wal_position(site.pool)
        taken.append(await fastest_ms(site.write, 1))
        sizes.append((await wal_position(site.pool) - before) / 1024)
    return {"ms": min(taken), "wal_kb": statistics.median(sizes)}


async def sweep_for_holes(site: Site) -> Figures:
    """The worker's search for holes, of all symbols."""
    return {"ms": await fastest_ms(lambda: find_due_holes(site.pool, now=site.newest_at))}


async def coverage_of_an_hour(site: Site) -> Figures:
    """``get_coverage`` of an hour in the middle of the history."""
    middle = site.history.start + (site.history.end - site.history.start) / 2
    end = middle + timedelta(hours=1)
    counts = await counted(site, lambda database: read_coverage(database, site.symbol, middle, end))
    return {"ms": await fastest_ms(lambda: site.provider.get_coverage(site.symbol, middle, end))} | counts


async def missing_before(site: Site) -> Figures:
    """Where a hole in the middle of the ids lies in time."""
    history = site.history
    if not history.trades:
        return {}
    wanted = history.hole(history.holes // 2 + 1) if history.holes else history.last_id // 2

    async def search(database: Database) -> None:
        async with database.connection() as connection:
            await since_before(connection, site.symbol, wanted)

    return {
        "ms": await fastest_ms(lambda: since_before(site.pool, site.symbol, wanted)),
        "locate_ms": await fastest_ms(lambda: locate(site.pool, site.symbol, (wanted, wanted + 1))),
    } | await counted(site, search)


async def refused_gaps(site: Site) -> Figures:
    """A read of all hours with ``gaps="raise"``, and the plain read."""
    history = site.history
    if not history.trades:
        return {}
    start, end = history.start + DAY, history.end - DAY

    async def read(gaps: GapsChoice) -> float:
        return await fastest_ms(lambda: site.provider.get_candles(site.symbol, 60, start, end, gaps=gaps), 1)

    plain, raising = [], []
    for _ in range(_READS):
        plain.append(await read("ignore"))
        raising.append(await read("raise"))
    ignore_ms, raise_ms = min(plain), min(raising)
    return {"ignore_ms": ignore_ms, "raise_ms": raise_ms, "raise_times": raise_ms / ignore_ms}


async def data_range(site: Site) -> Figures:
    """``get_data_range``."""
    if not site.newest_id:
        return {}
    counts = await counted(site, lambda database: read_data_range(database, site.symbol))
    return {"ms": await fastest_ms(lambda: site.provider.get_data_range(site.symbol))} | counts


async def status(site: Site) -> Figures:
    """``get_sync_status``, and two queries of the worker that run every few seconds."""
    counts = await counted(site, lambda database: read_sync_status(database, site.symbol))
    return {
        "ms": await fastest_ms(lambda: site.provider.get_sync_status(site.symbol)),
        "missing_ms": await fastest_ms(lambda: count_missing(site.pool)),
        "newest_ids_ms": await fastest_ms(lambda: find_newest_ids(site.pool, [site.symbol])),
    } | counts


async def latest(site: Site) -> Figures:
    """The latest 200 candles of a minute, and of an hour."""
    if not site.newest_id:
        return {}
    read = site.provider.get_latest_candles
    counts = await counted(
        site, lambda database: read_latest_over_gaps(database, site.symbol, 1, _LATEST, None, "ignore")
    )
    return {
        "ms": await fastest_ms(lambda: read(site.symbol, 1, _LATEST)),
        "hours_ms": await fastest_ms(lambda: read(site.symbol, 60, _LATEST)),
    } | counts


async def follow_poll(site: Site) -> Figures:
    """A follower's query, from ten minutes ago on."""
    positions = {site.symbol: site.newest_at - 10 * MINUTE}

    async def poll(database: Database) -> object:
        return await read_settled(database, positions, MINUTE, Timing(), now=site.newest_at + MINUTE)

    return {"ms": await fastest_ms(lambda: poll(site.database))} | await counted(site, poll)


async def refresh_of_an_hour(site: Site) -> Figures:
    """A refresh after a write into one hour, all intervals whose bucket is closed."""
    taken = []
    for _ in range(_READS):
        await site.write()
        taken.append(await fastest_ms(lambda: refresh(site.pool, now=site.newest_at + 8 * DAY), 1))
    return {"ms": min(taken)}


async def retention(site: Site) -> Figures:
    """A pass that drops the oldest day of trades; one that drops nothing."""
    oldest = await site.pool.fetchval("SELECT min(timestamp) FROM trades")
    if oldest is None or oldest > site.history.end - 10 * DAY:
        return {}
    now = site.newest_at + 8 * DAY
    cutoff = oldest.replace(hour=0, minute=0, second=0, microsecond=0) + DAY
    await refresh(site.pool, now=now)
    idle_ms = await fastest_ms(lambda: drop_old(site.pool, {"trades": cutoff - 30 * DAY}, now=now))
    started = time.perf_counter()
    dropped = await drop_old(site.pool, {"trades": cutoff}, now=now)
    assert dropped == {"trades": 1}
    return {"ms": (time.perf_counter() - started) * 1e3, "idle_ms": idle_ms}


class _OneTransaction(Database):
    """Reads through one connection, in its transaction."""

    def __init__(self, database: Database, connection: Connection) -> None:
        super().__init__(database.url, 0, 1)
        self._connection = connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        yield self._connection


async def counted(site: Site, read: Callable[[Database], Awaitable[object]]) -> Figures:
    """The blocks that a read fetches from our tables and indexes, in any cache, and the relations that it locks."""
    async with site.database.connection() as connection:
        await connection.execute("SET max_parallel_workers_per_gather = 0")  # the counts are those of one process
        database = _OneTransaction(site.database, connection)
        async with connection.transaction(isolation="repeatable_read", readonly=True):  # makes plans, reads catalogues
            await read(database)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            before = await connection.fetchval(_BLOCKS)  # those of earlier transactions may not be counted off yet
            await read(database)
            blocks = await connection.fetchval(_BLOCKS) - before
            locks = await connection.fetchval(_LOCKS)
        await connection.execute("RESET max_parallel_workers_per_gather")
    return {"blocks": float(blocks), "locks": float(locks)}


_LOCKS = """
    SELECT count(*) FROM pg_locks
    WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation >= 16384
"""

# 16384 is the first id of what is not the server's own. The catalogues of the extension are left out too.
_BLOCKS = """
    SELECT coalesce(sum(pg_stat_get_xact_blocks_fetched(c.oid)), 0)::bigint
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid >= 16384 AND n.nspname NOT LIKE '\\_timescaledb\\_ca%'
"""
