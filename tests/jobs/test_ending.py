"""A worker that is told to stop ends, whatever becomes of arq's one cancellation."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.worker import Worker, func

from jobs.ending import Ending
from tests.support.waiting import until

AGAIN_S = 0.05


async def lose_cancellations(times: int) -> None:
    """What :func:`asyncio.wait_for` does now and then."""
    for _ in range(times):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
    await asyncio.sleep(60)


class Stopped:
    """A worker with one job, and how it ended."""

    def __init__(self, arq: ArqRedis, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._arq = arq
        self._job = job
        self.has_begun = asyncio.Event()
        self.main_loses = 0

    async def run(self) -> None:
        """From the first job to the end of all that was going on, as ``arq`` runs it but for its signals."""
        work: Any = self._work  # a job, to arq's types, is nothing but a function
        await self._arq.enqueue_job("work")
        worker = Worker(
            [func(work, name="work")],
            redis_pool=self._arq,
            queue_name=None,
            job_serializer=self._arq.job_serializer,
            job_deserializer=self._arq.job_deserializer,
            on_startup=self._start,
            on_shutdown=self._finish,
            handle_signals=False,
            poll_delay=0.01,
        )
        running = asyncio.create_task(worker.async_run())
        await self.has_begun.wait()
        worker.handle_sig(signal.SIGTERM)
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.gather(*worker.tasks.values())  # as arq closes
        await self._finish(worker.ctx)
        self.left = {*worker.tasks, *worker.job_tasks}

    async def _start(self, ctx: dict[str, Any]) -> None:
        main = asyncio.current_task()
        assert main is not None
        ctx["ending"] = Ending(main, again_after_s=AGAIN_S)
        if self.main_loses:
            self.has_begun.set()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    async def _finish(self, ctx: dict[str, Any]) -> None:
        await ctx["ending"].is_over()

    async def _work(self, _: dict[str, Any]) -> None:
        self.has_begun.set()
        await self._job()


@pytest.mark.parametrize("losses", [0, 1, 3])
async def test_a_job_that_loses_its_cancellation_is_cancelled_again(arq: ArqRedis, losses: int) -> None:
    # A stop came upon a job whose command had just been answered: the job went on, and the worker until it was killed.
    async with asyncio.timeout(5):
        stopped = Stopped(arq, lambda: lose_cancellations(losses))
        await stopped.run()

    assert stopped.left == set()
    assert await arq.zcard(arq.default_queue_name) == 1  # for the next worker
    assert await arq.keys("arq:in-progress:*") == []


async def test_a_worker_that_loses_its_own_cancellation_ends_and_begins_no_job(arq: ArqRedis) -> None:
    begun: list[str] = []

    async def work() -> None:
        begun.append("a job")

    stopped = Stopped(arq, work)
    stopped.main_loses = 1
    async with asyncio.timeout(5):
        await stopped.run()

    assert begun == []


async def test_a_job_that_fails_while_it_is_stopped_does_not_fail_the_worker(arq: ArqRedis) -> None:
    class Stubborn(BaseException):
        """Nothing that arq knows."""

    async def fail() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise Stubborn

    async with asyncio.timeout(5):
        await Stopped(arq, fail).run()


async def test_a_job_may_clean_up_undisturbed(arq: ArqRedis) -> None:
    cleaned_up = asyncio.Event()

    async def clean_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(AGAIN_S / 5)
            cleaned_up.set()

    async with asyncio.timeout(5):
        await Stopped(arq, clean_up).run()
    await until(cleaned_up.is_set, timeout_s=1)
