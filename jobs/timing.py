"""arq's timing by the clock of Redis, which all hosts share, instead of that of the worker's machine.

arq compares the time at which a job is due, which the requesting host wrote, with the worker's own time, and begins its
periodic jobs when the worker's own time says so. If the clock of one host is off, jobs wait; if it is set back while
the worker runs, the periodic jobs stop for as long.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import arq.worker
from arq.worker import Worker

from kraken_history.runtime.clocks import OtherClock

_SET = timedelta(seconds=5)  # by which a clock must leap, for the periodic jobs to be planned anew


class Timing:
    """Times the jobs of one worker.

    Args:
        clock: That of Redis.
        monotonic: In seconds.
    """

    def __init__(self, worker: Worker, clock: OtherClock, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._clock = clock
        self._monotonic = monotonic
        self._run_cron = worker.run_cron
        self._looked: tuple[datetime, float] | None = None

    def take_over(self) -> None:
        """Make arq use this clock. It imports its function for the time by name, and has no hook for it."""
        setattr(arq.worker, "timestamp_ms", self.now_ms)  # noqa: B010 — not exported
        setattr(self._worker, "run_cron", self.run_cron)  # noqa: B010 — mypy forbids to assign a method

    def now_ms(self) -> int:
        """Redis' time, as arq writes times."""
        return int(self._clock.now().timestamp() * 1000)

    async def run_cron(self, _: datetime, delay: float, num_windows: int = 2) -> None:
        """As arq's, which passes the time of the worker's machine. If the clock was set, all turns are planned anew."""
        now, at_s = self._clock.now().astimezone(self._worker.timezone), self._monotonic()
        if self._looked is not None:
            before, before_s = self._looked
            if abs(now - before - timedelta(seconds=at_s - before_s)) > _SET:
                for job in self._worker.cron_jobs:
                    job.calculate_next(now)
        self._looked = now, at_s
        await self._run_cron(now, delay, num_windows)
