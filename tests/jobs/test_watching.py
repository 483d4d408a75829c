"""Jobs that do not end: what ends them, and where they are shown."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from arq.worker import Worker, func

from jobs.watching import LONG_S, OVERDUE_AFTER_S, JobWatch
from kraken_history.database.connections import create_pool
from kraken_history.fetching.queue import decode_job, encode_job
from tests.support.proxy import Proxy
from tests.support.queue import connect_queue
from tests.support.waiting import until

Job = Callable[..., Coroutine[Any, Any, Any]]


@asynccontextmanager
async def worker_of(redis_url: str, job: Job, *, timeout_s: float) -> AsyncIterator[Worker]:
    async with await connect_queue(redis_url) as queue:
        yield Worker(
            # arq begins a job anew 10 s after the longest time-out of all functions.
            [func(job, name="heal", timeout=timeout_s, max_tries=1, keep_result=0), func(job, name="x", timeout=600)],
            redis_pool=queue,
            queue_name=None,
            job_serializer=encode_job,
            job_deserializer=decode_job,
            burst=True,
            handle_signals=False,
            poll_delay=0.01,
        )


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
class TestASilentDatabase:
    async def test_a_job_in_a_transaction_ends_and_frees_its_connection(
        self, migrated_database_url: str, redis_url: str
    ) -> None:
        # The worker's pool had no limit for a statement. arq's time-out cancelled the job once; its ROLLBACK waited for
        # the server to confirm the cancellation, for ever, and the job kept its slot and its id.
        began = asyncio.Event()
        async with Proxy(migrated_database_url) as proxy:
            pool = await create_pool(proxy.url, min_size=1, max_size=1, command_timeout_s=3.0)

            async def job(_: dict[str, Any]) -> None:
                async with pool.acquire() as connection, connection.transaction():
                    await connection.execute("SELECT 1")
                    proxy.silence_what_is_open()
                    began.set()
                    await connection.execute("SELECT 2")

            async with worker_of(redis_url, job, timeout_s=2.0) as worker:
                await worker.pool.enqueue_job("heal")
                await asyncio.wait_for(worker.main(), 60)

            assert began.is_set()
            assert worker.jobs_failed == 1
            assert await pool.fetchval("SELECT 3") == 3
            pool.terminate()


class TestTheWatch:
    async def test_a_job_that_swallows_its_cancellation_is_told_and_ended(self, redis_url: str) -> None:
        clock, release = Clock(), asyncio.Event()

        async def job(_: dict[str, Any]) -> None:
            try:
                await release.wait()
            except asyncio.CancelledError:
                await release.wait()

        async with worker_of(redis_url, job, timeout_s=0.05) as worker:
            watch = JobWatch(worker, clock=clock)
            await worker.pool.enqueue_job("heal", _job_id="heal:BTC/USDT:5:9:")
            running = asyncio.create_task(worker.main())
            await until(lambda: worker.job_tasks)
            (task,) = worker.job_tasks.values()
            watch.look()
            await until(lambda: task.cancelling() == 1)
            assert (watch.long_jobs, watch.trouble) == ({}, {})

            clock.now = 0.05 + OVERDUE_AFTER_S + LONG_S
            told = "heal:BTC/USDT:5:9: has run for 2 min, which its time-out of 0 s did not end"
            assert watch.long_jobs == {"heal:BTC/USDT:5:9:": 135}
            assert told in watch.trouble["jobs"]
            watch.look()
            await asyncio.wait_for(running, 60)
            watch.look()

        assert worker.jobs_failed == 1
        assert (watch.long_jobs, watch.trouble) == ({}, {})

    async def test_a_job_anew_under_its_id_begins_at_zero(self, redis_url: str) -> None:
        clock = Clock()

        async def job(_: dict[str, Any]) -> None: ...

        async with worker_of(redis_url, job, timeout_s=5) as worker:
            watch = JobWatch(worker, clock=clock)
            forever = asyncio.Event()
            for clock.now in (0.0, LONG_S):
                worker.job_tasks["heal:x"] = asyncio.create_task(forever.wait())
                watch.look()
                assert watch.long_jobs == {}
            clock.now = 2 * LONG_S
            assert watch.long_jobs == {"heal:x": LONG_S}
            forever.set()
