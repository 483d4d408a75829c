"""Names of arq that its documentation does not promise, and that ``jobs`` leans on."""

import asyncio
import inspect
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from arq.worker import Worker, func

from tests.support.queue import connect_queue


@pytest.fixture
async def arq(redis_url: str) -> AsyncIterator[ArqRedis]:
    """An empty queue."""
    async with await connect_queue(redis_url) as arq:
        yield arq


class Run:
    """A worker with one job that runs until it is cancelled."""

    def __init__(self, arq: ArqRedis) -> None:
        self.began = asyncio.Event()
        self.main: asyncio.Task[Any] | None = None
        job: Any = self._job  # a job, to arq's types, is nothing but a function
        start: Any = self._start
        self.worker = Worker(
            [func(job, name="job")],
            redis_pool=arq,
            queue_name=None,
            job_serializer=arq.job_serializer,
            job_deserializer=arq.job_deserializer,
            on_startup=start,
            handle_signals=False,
            poll_delay=0.01,
        )

    async def _start(self, _: dict[str, Any]) -> None:
        self.main = asyncio.current_task()

    async def _job(self, _: dict[str, Any]) -> None:
        self.began.set()
        await asyncio.Event().wait()


@pytest.fixture
async def run(arq: ArqRedis) -> AsyncIterator[Run]:
    """A worker that is at its job, and that is stopped at the end."""
    run = Run(arq)
    await arq.enqueue_job("job", _job_id="id")
    running = asyncio.create_task(run.worker.async_run())
    async with asyncio.timeout(10):
        await run.began.wait()
        yield run
        run.worker.handle_sig(signal.SIGTERM)
        await asyncio.wait([running, *run.worker.tasks.values()])


async def test_the_task_that_starts_the_worker_is_its_main_method(run: Run) -> None:
    """``jobs.ending`` finds the worker by the ``self`` of that coroutine.

    Without it a worker that loses a cancellation runs on after SIGTERM until it is killed.
    """
    assert run.main is not None
    coroutine: Any = run.main.get_coro()

    assert inspect.getcoroutinelocals(coroutine)["self"] is run.worker
    assert run.worker.main_task is run.main


async def test_a_worker_names_its_runs_and_its_jobs(run: Run) -> None:
    """``jobs.ending`` cancels ``Worker.job_tasks`` first and ``Worker.tasks`` after them.

    Without these names it cannot end jobs in order, and arq waits without a bound for those that go on.
    """
    assert run.worker.tasks.keys() == run.worker.job_tasks.keys() == {"id"}
    assert run.worker.tasks["id"] is not run.worker.job_tasks["id"]


async def test_a_stop_cancels_main_and_runs_once_and_calls_on_stop(run: Run) -> None:
    """``jobs.ending`` hooks ``Worker.on_stop``. If nobody calls it, nothing repeats a lost cancellation."""
    told: list[Any] = []
    run.worker.on_stop = told.append
    tasks = [run.main, *run.worker.tasks.values()]

    run.worker.handle_sig(signal.SIGTERM)

    assert told == [signal.SIGTERM]
    assert [task is not None and task.cancelling() for task in tasks] == [1, 1]


async def test_a_worker_without_room_takes_no_job(arq: ArqRedis, run: Run) -> None:
    """``jobs.ending`` sets ``Worker.max_jobs`` to 0. Otherwise a main task that goes on begins jobs while it stops."""
    run.worker.max_jobs = 0
    await arq.enqueue_job("job", _job_id="another")

    await run.worker._poll_iteration()

    assert run.worker.tasks.keys() == {"id"}


async def test_a_job_at_work_has_a_mark_and_stays_in_the_queue(arq: ArqRedis, run: Run) -> None:
    """``jobs.worker`` deletes the marks of a killed worker, and ``fetching.queue`` reads the queue's job ids.

    With other keys, jobs of a killed worker wait for an hour, and the same hole is asked for again and again.
    """
    assert await arq.exists(f"{in_progress_key_prefix}id") == 1
    assert await arq.zrange(arq.default_queue_name, 0, -1) == [b"id"]
