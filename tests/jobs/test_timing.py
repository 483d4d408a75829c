"""Hosts whose clocks are an hour off: jobs are due, and periodic jobs begin, by the clock of Redis."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import arq.connections as arq_connections
import arq.worker as arq_worker
import pytest
from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from arq.cron import cron
from arq.utils import timestamp_ms
from arq.worker import Worker

from jobs.context import WorkerContext
from jobs.heal import sweep
from jobs.timing import Timing
from kraken_history.clock import utc_now
from kraken_history.fetching.queue import decode_job, encode_job
from kraken_history.kraken.pairs import PairMap
from kraken_history.runtime.clocks import Clocks, OtherClock
from tests.support.kraken import all_trades

BTC = PairMap().find("BTC/USDT")
HOUR = timedelta(hours=1)
HOUR_MS = 3_600_000


def set_clock(monkeypatch: pytest.MonkeyPatch, module: Any, ahead_ms: int) -> None:
    monkeypatch.setattr(module, "timestamp_ms", lambda: timestamp_ms() + ahead_ms)


async def due_ms(arq: ArqRedis) -> list[float]:
    """Of each queued job: milliseconds until it is due, by the clock of Redis."""
    now_s, microseconds = await arq.time()
    return [score - now_s * 1000 - microseconds / 1000 for _, score in await arq.zrange(
        arq.default_queue_name, 0, -1, withscores=True)]  # fmt: skip


@pytest.mark.parametrize("ahead_ms", [HOUR_MS, -HOUR_MS, 30 * 24 * HOUR_MS])
async def test_a_job_is_due_by_the_clock_of_redis_whoever_requests_it(
    context: WorkerContext, arq: ArqRedis, monkeypatch: pytest.MonkeyPatch, ahead_ms: int
) -> None:
    # A consumer whose clock was an hour ahead requested healing in an hour, and the sweep took the job for healing.
    set_clock(monkeypatch, arq_connections, ahead_ms)
    await context.jobs.heal("BTC/USDT", (5, 9), delay_s=1)

    (wait_ms,) = await due_ms(arq)
    (lasts_ms,) = [await arq.pttl(key) for key in await arq.keys(f"*{job_key_prefix}*")]
    assert -5_000 < wait_ms <= 1_000
    assert 0.9 * arq.expires_extra_ms < lasts_ms <= arq.expires_extra_ms + 1_000


async def test_a_worker_whose_clock_is_behind_takes_jobs_at_once(
    context: WorkerContext, arq: ArqRedis, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, arq_worker, -HOUR_MS)
    clock = OtherClock(blur=timedelta(), local=lambda: utc_now() - HOUR)
    seconds, _ = await arq.time()
    clock.note(datetime.fromtimestamp(seconds + 1, utc_now().tzinfo))
    monkeypatch.setattr(worker, "run_cron", worker.run_cron)
    Timing(worker, clock).take_over()
    await context.jobs.heal("BTC/USDT", (5, 9), delay_s=0)
    await asyncio.wait_for(worker.main(), 60)

    assert worker.jobs_complete == 1


async def test_the_sweep_brings_forward_what_an_older_version_requested_for_later(
    context: WorkerContext, arq: ArqRedis, worker: Worker
) -> None:
    trades = await all_trades(context.rest, BTC)
    lost = trades[5:9]
    await context.store.write([trade for trade in trades if trade not in lost])
    await context.jobs.heal("BTC/USDT", (lost[0].id, lost[-1].id + 1), delay_s=3_600)
    assert await sweep({"context": context}) == 0  # its id is taken

    await worker.main()
    assert worker.jobs_complete == 1
    assert await sweep({"context": context}) == 0
    assert await arq.zcard(arq.default_queue_name) == 0


async def test_jobs_that_wait_as_long_as_they_should_are_left_alone(context: WorkerContext, arq: ArqRedis) -> None:
    await context.jobs.heal("BTC/USDT", (5, 9), delay_s=20)
    await context.jobs.sweep_backfills(delay_s=600)

    assert await context.jobs.bring_forward() == 0
    assert sorted(ms > 10_000 for ms in await due_ms(arq)) == [True, True]


class RedisClock:
    def __init__(self) -> None:
        self._started = utc_now().replace(second=10, microsecond=0)
        self.passed_s, self.leapt = 0.0, timedelta()

    def now(self) -> datetime:
        return self._started + self.leapt + timedelta(seconds=self.passed_s)


class TestPeriodicJobs:
    @pytest.mark.parametrize("leap", [-HOUR, HOUR])
    async def test_they_go_on_when_the_clock_is_set(self, arq: ArqRedis, leap: timedelta) -> None:
        # With the clock of its machine an hour back, the worker began no periodic job for an hour; with the clock an
        # hour ahead, it began all those of that hour.
        redis_clock = RedisClock()

        async def periodic(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> None: ...

        worker = Worker(
            cron_jobs=[cron(periodic, name="cron:x", second={0, 30})],
            redis_pool=arq,
            queue_name=None,
            job_serializer=encode_job,
            job_deserializer=decode_job,
            handle_signals=False,
        )
        timing = Timing(worker, OtherClock(local=redis_clock.now), monotonic=lambda: redis_clock.passed_s)
        for _ in range(5):
            await timing.run_cron(utc_now(), 0.5)
        assert await arq.zcard(arq.default_queue_name) == 0

        redis_clock.leapt = leap
        for redis_clock.passed_s in (0.5, 1.0, 1.5, 19.5, 20.5):  # until half past the minute
            await timing.run_cron(utc_now(), 0.5)
        assert await arq.zcard(arq.default_queue_name) == 1


async def test_a_clock_that_is_off_is_measured(arq: ArqRedis) -> None:
    clocks = Clocks(kraken := OtherClock())
    kraken.note(utc_now() - HOUR)
    await clocks.ask(arq)

    assert abs(clocks.ahead_s["redis"]) < 2
    assert abs(clocks.ahead_s["kraken"] - 3_600) < 2
