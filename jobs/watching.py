"""Watches the jobs that a worker runs: how long each has run, and whether arq's time-out has ended it.

arq cancels a job once, when its time is over, and then waits for it without a limit. A job that has not ended by then
keeps its slot, and its id, so that nobody can request the same work again.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

from arq.worker import Worker
from msgspec import Struct

from kraken_history.runtime import telemetry

LOOK_EVERY_S = 1.0
"""Seconds between two looks at the running jobs."""

LONG_S = 120.0
"""Seconds after which a running job is shown in the sign of life: most take a few seconds."""

LOGGED_EVERY_S = 300.0
"""Seconds between log events about one job that runs long."""

OVERDUE_AFTER_S = 15.0
"""Seconds past its time-out after which a job counts as overdue, and is cancelled again."""

_log = telemetry.get_logger("worker")


class _Seen(Struct):
    """A running job, since it was first seen.

    Attributes:
        task: arq starts a job anew under the same id.
    """

    task: "asyncio.Task[object]"
    since: float
    logged_at: float


class JobWatch:
    """What one worker's jobs do.

    Args:
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, worker: Worker, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    @property
    def long_jobs(self) -> dict[str, int]:
        """The jobs that have run for :data:`LONG_S`, by id, and for how many seconds."""
        return {id_: int(age) for id_, age in self._ages().items() if age >= LONG_S}

    @property
    def trouble(self) -> dict[str, str]:
        """Why the worker is not well: the jobs that their time-out did not end; empty if there is none."""
        overdue = [
            f"{id_} has run for {_minutes(age)}, which its time-out of {_minutes(self.limit_of(id_))} did not end"
            for id_, age in self._ages().items()
            if age >= self.limit_of(id_) + OVERDUE_AFTER_S
        ]
        return {"jobs": f"{'; '.join(overdue)}: restart the worker if this lasts"} if overdue else {}

    def limit_of(self, job_id: str) -> float:
        """The job's time-out in seconds. arq does not say which function it runs, but our ids begin with the name."""
        for name, function in self._worker.functions.items():
            if f"{job_id}:".startswith(f"{name}:") and function.timeout_s is not None:
                return function.timeout_s
        return float(self._worker.job_timeout_s)

    def look(self) -> None:
        """Look at the running jobs: log those that run long, and cancel those that are overdue once more."""
        now, running = self._clock(), dict(self._worker.job_tasks)
        self._seen = {id_: self._as_seen(id_, task, now) for id_, task in running.items()}
        for id_, seen in self._seen.items():
            age = now - seen.since
            if age >= self.limit_of(id_) + OVERDUE_AFTER_S:
                seen.task.cancel()
            if age >= LONG_S and now - seen.logged_at >= LOGGED_EVERY_S:
                seen.logged_at = now
                _log.warning("job_runs_long", job=id_, seconds=int(age), at=_place(seen.task))

    async def keep_looking(self) -> None:
        """Look every second, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def _as_seen(self, id_: str, task: "asyncio.Task[object]", now: float) -> _Seen:
        seen = self._seen.get(id_)
        return seen if seen is not None and seen.task is task else _Seen(task, now, now - LOGGED_EVERY_S)

    def _ages(self) -> Mapping[str, float]:
        now = self._clock()
        return {id_: now - seen.since for id_, seen in self._seen.items()}


def _place(task: "asyncio.Task[object]") -> str:
    """Where a task waits, in our code: without it, nobody could find out why a job does not end."""
    awaited: object = task.get_coro()
    place = ""
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        place = f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno} {frame.f_code.co_name}"
        awaited = getattr(awaited, "cr_await", None)
    return place


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
