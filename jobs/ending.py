"""Stopping arq's worker in time and in order."""

import asyncio
import inspect
from typing import Any

from arq.worker import Worker

from kraken_history.runtime import telemetry
from kraken_history.runtime.tasks import AGAIN_AFTER_S, end

_Task = asyncio.Task[Any]

_log = telemetry.get_logger("worker")


class Ending:
    """Ends the tasks of a worker that was told to stop.

    arq cancels its tasks once, which is not always enough (see :func:`end`). It then waits for its jobs without limit,
    and fails with the first job that does not end as it expects.

    Args:
        main: The task that runs the worker.

    Attributes:
        begun: Set when the worker is told to stop.
        worker: The worker whose main task this is.
    """

    def __init__(self, main: _Task, *, again_after_s: float = AGAIN_AFTER_S) -> None:
        self._main = main
        self.worker = _worker_of(main)
        self._again_after_s = again_after_s
        self._ending: set[asyncio.Task[None]] = set()
        self.begun = asyncio.Event()
        self.worker.on_stop = self._begin

    async def is_over(self) -> None:
        """Return when everything that ran at the signal has ended; at once if there was no signal."""
        if self._ending:
            await asyncio.wait(self._ending)

    def _begin(self, _: object) -> None:
        """Called when arq has just cancelled its tasks."""
        self.begun.set()
        self.worker.max_jobs = 0
        self._ending.add(asyncio.create_task(self._end({*self.worker.job_tasks.values()}, self._take_runs())))

    async def _end(self, jobs: set[_Task], runs: set[_Task]) -> None:
        await asyncio.wait({*runs, self._main}, timeout=self._again_after_s)
        # Include the jobs that the main task started if its cancellation was lost.
        jobs |= {*self.worker.job_tasks.values()}
        runs |= self._take_runs()
        await asyncio.gather(self._end_all(self._main), self._end_runs(jobs, runs))

    async def _end_runs(self, jobs: set[_Task], runs: set[_Task]) -> None:
        """End jobs first: if a run that waits for its job is cancelled a second time, it abandons the job."""
        await self._end_all(*jobs)
        if runs:
            await asyncio.wait(runs, timeout=self._again_after_s)
        await self._end_all(*runs)
        for task in jobs | runs:
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.warning("job_left_unfinished", error=str(error) or type(error).__name__)

    async def _end_all(self, *tasks: _Task) -> None:
        await end(*tasks, again_after_s=self._again_after_s)

    def _take_runs(self) -> set[_Task]:
        """Return arq's tasks around the jobs, and make arq stop waiting for them."""
        runs = {*self.worker.tasks.values()}
        self.worker.tasks.clear()
        return runs


def _worker_of(main: _Task) -> Worker:
    """The worker whose method ``main`` runs: arq does not pass the worker to the functions that it calls."""
    coroutine: Any = main.get_coro()
    worker = inspect.getcoroutinelocals(coroutine)["self"]
    assert isinstance(worker, Worker)
    return worker
