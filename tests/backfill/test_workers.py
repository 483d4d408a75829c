"""Backfills by real workers, which are killed, against the simulator."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest
from arq.connections import ArqRedis

from kraken_history.backfill_targets import list_backfills, request_backfill
from kraken_history.job_queue import JobQueue, connect_queue
from kraken_history.kraken.client import KrakenRest
from kraken_history.store import Store
from kraken_history.symbols import PairMap
from tests.backfill.kraken import CountedSimulator, NoLimit, assert_equals_truth

REPOSITORY = Path(__file__).resolve().parents[2]
SYMBOLS = ("BTC/USDT", "ETH/USDT", "XRP/USDT")
PAIRS = ("XBTUSDT", "ETHUSDT", "XRPUSDT")
MOST_MEMORY = 200 * 1024**2
POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


class Workers:
    """Worker processes of the test's servers, at the spacing that the test says."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment = environment
        self._log = log
        self._processes: list[asyncio.subprocess.Process] = []
        self.most_memory = 0

    async def start(self, count: int = 1) -> None:
        """Start some more."""
        with self._log.open("ab") as log:
            for _ in range(count):
                self._processes.append(
                    await asyncio.create_subprocess_exec(
                        sys.executable, "-m", "arq", "jobs.worker.WorkerSettings",
                        cwd=REPOSITORY, env={**os.environ, **self._environment}, stdout=log, stderr=log,
                    )
                )  # fmt: skip

    async def end(self, number: signal.Signals) -> None:
        """Send all a signal and wait until they are gone."""
        for process in self._processes:
            if process.returncode is None:
                process.send_signal(number)
        for process in self._processes:
            await process.wait()
        self._processes.clear()

    def look(self) -> None:
        """Note how much memory they take; fail if one has ended by itself."""
        for process in self._processes:
            assert process.returncode is None, self._log.read_text()
            self.most_memory = max(self.most_memory, psutil.Process(process.pid).memory_info().rss)


class Surroundings:
    """What a test of workers works with."""

    def __init__(self, pool: asyncpg.Pool, arq: ArqRedis, kraken: CountedSimulator, workers: Workers) -> None:
        self.pool, self.arq, self.kraken, self.workers = pool, arq, kraken, workers

    async def ask(self, *symbols: str) -> None:
        """Write targets, and put their jobs into the queue."""
        for symbol in symbols:
            asked = await request_backfill(self.pool, symbol)
            await JobQueue(self.arq).backfill(symbol, asked.run)

    async def pages(self) -> int:
        """Pages stored by all backfills."""
        return sum(backfill.pages for backfill in await list_backfills(self.pool))

    async def is_done(self) -> bool:
        """True once all backfills are; fails if one has failed."""
        states = {backfill.symbol: (backfill.state, backfill.reason) for backfill in await list_backfills(self.pool)}
        assert {state for state, _ in states.values()} <= {"running", "done"}, states
        return all(state == "done" for state, _ in states.values())

    async def until(self, condition: Callable[[], object], *, timeout_s: float) -> None:
        """Wait until the condition, which may be a coroutine's, holds."""
        give_up = time.monotonic() + timeout_s
        while not await condition():  # type: ignore[misc]
            assert time.monotonic() < give_up, [str(b) for b in await list_backfills(self.pool)]
            self.workers.look()
            await asyncio.sleep(0.05)


@asynccontextmanager
async def surroundings(
    kraken: CountedSimulator, pool: asyncpg.Pool, database_url: str, redis_url: str, tmp_path: Path, **settings: object
) -> AsyncIterator[Surroundings]:
    environment = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "SYMBOLS": "XRP/BTC",  # which nobody trades here: nothing but backfills asks this Kraken
        "LOG_LEVEL": "warning",
        "METRICS_PORT": "",
        **{name.upper(): str(value) for name, value in settings.items()},
    }
    async with kraken, await connect_queue(redis_url) as arq:
        workers = Workers({**environment, "KRAKEN_REST_URL": kraken.rest_url}, tmp_path / "workers.log")
        try:
            yield Surroundings(pool, arq, kraken, workers)
        finally:
            await workers.end(signal.SIGKILL)


def say(figures: str) -> None:
    """Show what was measured, to whoever runs this with -s or looks at a failure."""
    sys.stdout.write(f"{figures}\n")


def in_mib(memory: int) -> str:
    """Bytes as MiB."""
    return f"{memory / 1024**2:.0f} MiB"


@pytest.mark.slow
@pytest.mark.timeout(180)
@POSTGRESQL
async def test_three_pairs_from_nothing_by_a_worker_that_is_killed_five_times(
    migrated_database_url: str, redis_url: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    kraken = CountedSimulator(SYMBOLS, history=200_000, history_hours=72)
    async with surroundings(
        kraken, pool, migrated_database_url, redis_url, tmp_path,
        rest_call_spacing_s=0.05, rest_total_spacing_s=0.001, backfill_lease_s=1.0,
    ) as around:  # fmt: skip
        await around.ask(*SYMBOLS)
        for _ in range(5):
            await around.workers.start()
            target = await around.pages() + 20

            async def has_advanced(target: int = target) -> bool:
                return await around.pages() >= target

            await around.until(has_advanced, timeout_s=30)
            await around.workers.end(signal.SIGKILL)
        assert not await around.is_done()
        await around.workers.start()
        await around.until(around.is_done, timeout_s=60)

        await assert_equals_truth(pool, kraken)
        assert around.workers.most_memory < MOST_MEMORY
        calls = sum(len(kraken.times_by_pair()[pair]) for pair in PAIRS)
        again = calls - await around.pages()
        say(f"{calls} calls, {again} of them for pages that were lost; memory {in_mib(around.workers.most_memory)}")
        assert again <= 5 * len(SYMBOLS)


@pytest.mark.slow
@pytest.mark.timeout(180)
@POSTGRESQL
async def test_three_pairs_from_nothing_at_the_pace_of_the_limiter(
    migrated_database_url: str, redis_url: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    spacing_s = 0.12
    kraken = CountedSimulator(SYMBOLS, history=200_000, history_hours=72)
    async with surroundings(
        kraken, pool, migrated_database_url, redis_url, tmp_path,
        rest_call_spacing_s=spacing_s, rest_total_spacing_s=0.001,
    ) as around:  # fmt: skip
        await around.ask(*SYMBOLS)
        await around.workers.start()
        await around.until(around.is_done, timeout_s=90)
        memory = around.workers.most_memory
        await around.workers.end(signal.SIGTERM)

        await assert_equals_truth(pool, kraken)
    rates = {}
    by_pair = kraken.times_by_pair()
    for pair in PAIRS:
        times = by_pair[pair]
        rates[pair] = (len(times) - 1) * spacing_s / (times[-1] - times[0])
        say(f"{pair}: {len(times)} pages, {rates[pair]:.3f} of what the limiter allows")
    say(f"memory {in_mib(memory)}")
    assert memory < MOST_MEMORY
    assert min(rates.values()) >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(120)
@POSTGRESQL
async def test_four_workers_on_one_queue_never_exceed_the_limit_together(
    migrated_database_url: str, redis_url: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """The simulator refuses what comes faster, and it refuses nothing; and its own clock agrees."""
    spacing_s, total_spacing_s = 0.1, 0.04
    kraken = CountedSimulator(SYMBOLS, history=60_000, history_hours=24, rest_burst=2, rest_rate=1 / spacing_s)
    async with surroundings(
        kraken, pool, migrated_database_url, redis_url, tmp_path,
        rest_call_spacing_s=spacing_s, rest_total_spacing_s=total_spacing_s, backfill_run_s=0.5,
    ) as around:  # fmt: skip
        await around.workers.start(4)
        await around.ask(*SYMBOLS)
        await around.until(around.is_done, timeout_s=60)

        await assert_equals_truth(pool, kraken)
    by_pair = kraken.times_by_pair()
    for times in by_pair.values():
        assert_spaced(times, spacing_s)
    assert_spaced([at for at, *_ in kraken.calls], total_spacing_s)
    calls = sum(len(by_pair[pair]) for pair in PAIRS)
    assert calls == sum(backfill.pages for backfill in await list_backfills(pool))  # none was refused


def assert_spaced(times: list[float], spacing_s: float) -> None:
    """No stretch of calls is shorter than it may be, but for one of them having been late on its way."""
    late_s = 0.08
    for first, begin in enumerate(times):
        for more, end in enumerate(times[first:]):
            assert end - begin > more * spacing_s - late_s


@pytest.mark.timeout(60)
@POSTGRESQL
async def test_redis_may_be_wiped_at_any_moment(
    migrated_database_url: str, redis_url: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    kraken = CountedSimulator(SYMBOLS[:1], history=20_000, history_hours=12)
    async with surroundings(
        kraken, pool, migrated_database_url, redis_url, tmp_path,
        rest_call_spacing_s=0.05, backfill_lease_s=1.0, backfill_run_s=0.2,
    ) as around:  # fmt: skip
        await around.ask(SYMBOLS[0])
        await around.arq.flushall()  # the job is lost before any worker has seen it
        await around.workers.start()

        async def has_begun() -> bool:
            return await around.pages() > 3

        await around.until(has_begun, timeout_s=20)
        await around.arq.flushall()
        await around.workers.end(signal.SIGTERM)
        await around.workers.start()
        await around.until(around.is_done, timeout_s=30)

        await assert_equals_truth(pool, kraken)


@pytest.mark.timeout(60)
async def test_live_and_backfill_together_leave_no_duplicate_and_no_hole(
    migrated_database_url: str, redis_url: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """The live feed writes the newest trades, some twice, while the backfill comes up to them from the beginning."""
    symbol = SYMBOLS[0]
    kraken = CountedSimulator((symbol,), history=15_000, history_hours=12)
    pair = PairMap().find(symbol)
    async with AsyncExitStack() as stack:
        around = await stack.enter_async_context(
            surroundings(
                kraken, pool, migrated_database_url, redis_url, tmp_path,
                rest_call_spacing_s=0.03, rest_total_spacing_s=0.001, backfill_run_s=1.0, symbols=symbol,
            )
        )  # fmt: skip
        rest = await stack.enter_async_context(KrakenRest(kraken.rest_url, NoLimit()))
        store = Store(pool)

        stop = asyncio.Event()

        async def live() -> None:
            while not stop.is_set():
                since = kraken.exchange.tapes[symbol].last_time_ns
                kraken.emit(50)
                page = await rest.fetch_trades_page(pair, since)
                await store.write(page.trades[:30])
                await store.write(page.trades[20:])
                await asyncio.sleep(0.05)

        feed = asyncio.create_task(live())
        await around.ask(symbol)
        await around.workers.start()
        await around.until(around.is_done, timeout_s=40)
        stop.set()
        await feed

        async def is_whole() -> bool:
            return bool(await pool.fetchval(
                "SELECT count(*) = (SELECT max(id) - min(id) + 1 FROM trades) FROM trades WHERE symbol = $1", symbol
            ))  # fmt: skip

        await around.until(is_whole, timeout_s=20)
        await assert_equals_truth(pool, kraken)
