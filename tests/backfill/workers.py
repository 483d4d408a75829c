"""Worker processes on a test's own servers, and what a test asks of them."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
from arq.connections import ArqRedis

from kraken_history.fetching.backfill_targets import list_backfills, request_backfill
from kraken_history.fetching.queue import JobQueue
from tests.support.kraken import CountedSimulator
from tests.support.measuring import unmeasured
from tests.support.queue import connect_queue

REPOSITORY = Path(__file__).resolve().parents[2]


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
                        cwd=REPOSITORY, env={**unmeasured(), **self._environment}, stdout=log, stderr=log,
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

    @property
    def output(self) -> str:
        """What they have said."""
        return self._log.read_text()

    def look(self) -> None:
        """Note how much memory they take; fail if one has ended by itself."""
        for process in self._processes:
            assert process.returncode is None, self.output
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
