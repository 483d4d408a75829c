"""The costs of :mod:`benchmarks.growth` that need more than one look at one database, as series over sizes."""

import inspect
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from msgspec import Struct

from benchmarks.growth_costs import Figures, Site, durations_ms, fastest_ms, least_of, open_site, wal_position
from benchmarks.histories import DAY, History, build
from jobs.context import WorkerContext
from jobs.figures import note_missing, note_uncovered
from jobs.gaps import fill_gap, fill_gaps
from jobs.heal import sweep
from kraken_history.clock import utc_now
from kraken_history.completeness.holes import find_newest_ids
from kraken_history.completeness.unreachable import note_unreachable
from kraken_history.csv_import import CsvImporter, found_files
from kraken_history.database.connections import create_pool
from kraken_history.fetching.backfill_targets import list_backfills, take_stalled
from kraken_history.fetching.queue import JobQueue
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.resolver import Resolver
from kraken_history.records import UnreachableTrades, floor_minute
from kraken_history.settings import Settings
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.store import Store
from kraken_history.storing.waiting import find_waiting_symbols
from kraken_history.symbols import Pair
from tests.support.kraken import NoLimit
from tests.support.queue import connect_queue

SYMBOL = "BTC/USDT"
DENSE_S, SPARSE_S = 60, 3 * 3600
"""Seconds between two candles of a dense pair, and of one that is traded every three hours."""

_HOLES_OF_SNAPSHOT = 1_000  # of the ledger that is written while a snapshot is held
_TIMED_WRITES = 100
_SYMBOL_TRADES = 60


class Place(Struct, frozen=True):
    """Servers to measure on.

    Attributes:
        redis_url: A Redis that is emptied.
        database: The URL of a new, empty database, which is dropped in the end.
    """

    redis_url: str
    database: Callable[[], AbstractAsyncContextManager[str]]


Series = Callable[[Place, Sequence[int], int], Awaitable[dict[int, Figures]]]
"""Measures a cost at several sizes, in a number of rounds."""


async def writes_beside_a_snapshot(place: Place, sizes: Sequence[int], rounds: int) -> dict[int, Figures]:
    """Writes while another session holds a snapshot: after so many, the median of the last hundred.

    At 0, without a snapshot.
    """
    end = floor_minute(utc_now())
    history = History(SYMBOL, end - 2 * DAY, end, 2 * _HOLES_OF_SNAPSHOT, _HOLES_OF_SNAPSHOT)
    found: dict[int, Figures] = {}
    async with place.database() as url:
        await build(url, [history])
        reader = await asyncpg.connect(url)
        async with open_site(0, history, url) as site:
            found[0] = await _timed_writes(site, _TIMED_WRITES)
            async with reader.transaction(isolation="repeatable_read", readonly=True):
                await reader.fetchval("SELECT count(*) FROM data_sync_status")
                done = 0
                for size in sorted(set(sizes) - {0}):
                    timed = min(size - done, _TIMED_WRITES)
                    for _ in range(size - done - timed):
                        await site.write()
                    found[size] = await _timed_writes(site, timed)
                    done = size
        await reader.close()
    return found


async def _timed_writes(site: Site, count: int) -> Figures:
    taken = statistics.median(await durations_ms(site.write, count))
    return {"ms": taken, "tables_kb": float(await site.pool.fetchval(_TABLES_KB))}


# Without the trades and candles, whose partitions grow anyway.
_TABLES_KB = """
    SELECT sum(pg_total_relation_size(oid)) / 1024 FROM pg_class
    WHERE relkind = 'r' AND NOT relispartition AND relnamespace = current_schema::regnamespace
"""


async def spans(place: Place, sizes: Sequence[int], rounds: int) -> dict[int, Figures]:
    """``get_coverage`` of so many days, up to the newest trade, of a history without a hole."""
    end = floor_minute(utc_now())
    history = History(SYMBOL, end - max(sizes) * DAY, end, max(sizes) * 1440)
    found: dict[int, list[Figures]] = {size: [] for size in sizes}
    async with place.database() as url:
        await build(url, [history])
        async with open_site(0, history, url) as site:
            await site.provider.get_coverage(SYMBOL, end - DAY, end)
            for _ in range(rounds):
                for size in sizes:
                    found[size].append(await _coverage(site, end - size * DAY))
    return {size: least_of(figures) for size, figures in found.items()}


async def _coverage(site: Site, start: datetime) -> Figures:
    read, end = site.provider.get_coverage, site.history.end
    figures = {"ms": await fastest_ms(lambda: read(SYMBOL, start, end), 1)}
    if "resolution" in inspect.signature(read).parameters:
        days: Any = read
        figures["by_day_ms"] = await fastest_ms(lambda: days(SYMBOL, start, end, resolution=DAY), 1)
    return figures


async def sparse_imports(place: Place, sizes: Sequence[int], rounds: int) -> dict[int, Figures]:
    """Import and refresh of so many candles of a pair that is traded every three hours, and of a dense one."""
    found: dict[int, Figures] = {}
    for size in sizes:
        dense, sparse = [await _import(place, size, step_s) for step_s in (DENSE_S, SPARSE_S)]
        found[size] = sparse | {f"dense_{name}": value for name, value in dense.items()} | {
            "dense_times": sparse["s"] / dense["s"]
        }  # fmt: skip
    return found


async def _import(place: Place, rows: int, step_s: int) -> Figures:
    end_s = int((floor_minute(utc_now()) - 10 * DAY).timestamp()) // SPARSE_S * SPARSE_S
    with tempfile.TemporaryDirectory(prefix="kraken-history-benchmark-") as folder:
        path = Path(folder) / "XBTUSDT_1.csv"
        lines = (f"{end_s - n * step_s},1.5,1.7,1.2,1.4,2.5,3\n" for n in range(rows, 0, -1))
        path.write_text("".join(lines))
        async with place.database() as url:
            await build(url, [])
            async with await create_pool(url, min_size=1, max_size=2) as pool:
                before = await wal_position(pool)
                started = time.perf_counter()
                with found_files([path]) as (files, _):
                    importer = CsvImporter(pool, _no_pairs, symbol=SYMBOL)
                    outcomes = [outcome async for outcome in importer.import_files(files)]
                await refresh(pool)
                seconds = time.perf_counter() - started
                assert len(outcomes) == 1
                written = await wal_position(pool) - before
                assert await pool.fetchval("SELECT count(*) FROM candles") == rows
    return {"s": seconds, "ms_per_row": seconds / rows * 1e3, "wal_kb_per_row": written / rows / 1024}


async def _no_pairs() -> Iterable[Pair]:
    return ()


async def worker_passes(place: Place, sizes: Sequence[int], rounds: int) -> dict[int, Figures]:
    """One pass of the worker over so many symbols: sweep, gap jobs, metrics and the other periodic looks.

    The processor time is that of this process and of the server's sessions, if the server is on this machine. Nothing
    is left to fetch: a tenth of the symbols have a hole, and REST cannot show its trade.
    """
    found: dict[int, Figures] = {}
    for size in sizes:
        end = floor_minute(utc_now())
        names = [f"C{n}/USD" for n in range(size)]
        histories = [
            History(name, end - 3 * DAY, end, _SYMBOL_TRADES, int(n % 10 == 0), asked_until=end + DAY)
            for n, name in enumerate(names)
        ]
        async with place.database() as url:
            await build(url, histories)
            holes = [
                UnreachableTrades(each.symbol, each.time_of(each.hole(1)), each.hole(1), each.hole(1))
                for each in histories
                if each.holes
            ]
            taken = await _worker_pass(url, place.redis_url, names, holes, rounds)
        found[size] = {"cpu_ms": min(taken) * 1e3, "cpu_ms_per_symbol": min(taken) * 1e3 / size}
    return found


async def _worker_pass(
    url: str, redis_url: str, names: Sequence[str], holes: Sequence[UnreachableTrades], rounds: int
) -> list[float]:
    pairs = [Pair(name, name.replace("/", ""), name.replace("/", ""), name) for name in names]

    async def listed() -> Iterable[Pair]:
        return pairs

    settings = Settings(symbols=tuple(names), history_days=1)
    taken = []
    async with await create_pool(url, min_size=1, max_size=2) as pool:
        async with pool.acquire() as connection:
            await note_unreachable(connection, holes)
        rest = KrakenRest("http://127.0.0.1:9", NoLimit())  # nothing is fetched: no time is uncovered
        for _ in range(rounds):
            async with await connect_queue(redis_url) as redis:
                await redis.flushall()
                jobs = JobQueue(redis, heal_delay_s=0)
                context = WorkerContext(settings, pool, Store(pool), rest, Resolver(listed), jobs)
                taken.append(await _timed_pass({"context": context, "redis": redis}, pool, names))
    return taken


async def _timed_pass(ctx: dict[str, Any], pool: asyncpg.Pool, names: Sequence[str]) -> float:
    before = await _processor_s(pool)
    await sweep(ctx)
    await fill_gaps(ctx)
    for name in names:
        await fill_gap(ctx, name, 2.0, 0)
    await note_uncovered(pool, dict.fromkeys(names, 1), live_ids={}, now=utc_now())
    await note_missing(pool, names)
    await find_newest_ids(pool, names)
    await find_waiting_symbols(pool)
    await list_backfills(pool)
    await take_stalled(pool, lease_s=60)
    await refresh(pool)
    return await _processor_s(pool) - before


async def _processor_s(pool: asyncpg.Pool) -> float:
    """Processor time of this process, and of the sessions in the database, in seconds."""
    rows = await pool.fetch("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
    total = time.process_time()
    for row in rows:
        try:
            times = psutil.Process(row["pid"]).cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total
