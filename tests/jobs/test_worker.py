"""The worker's start, and what it leaves to the next."""

import pytest
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, retry_key_prefix
from arq.worker import Worker

from jobs.context import WorkerContext


async def test_what_a_killed_worker_was_at_is_taken_up_at_once(
    arq: ArqRedis, context: WorkerContext, worker: Worker
) -> None:
    # arq's mark of a job at work outlives a SIGKILL by the longest time that any job may take, which is a day
    # for an import: a heal that was under way would not have been asked for again until then.
    from jobs.worker import forget_jobs_at_work  # reads the environment when it is imported

    await context.jobs.heal("BTC/USDT", (5, 6), delay_s=0)
    (job_id,) = await arq.zrange(arq.default_queue_name, 0, -1)
    await arq.psetex(in_progress_key_prefix + job_id.decode(), 3_600_000, b"1")

    assert await forget_jobs_at_work(arq) == 1

    await worker.main()
    assert worker.jobs_complete == 1


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_job_outlives_many_stops_of_its_worker(arq: ArqRedis, context: WorkerContext, worker: Worker) -> None:
    # Each stop counts as a try: after three the job was given up as failed.
    await context.jobs.heal("BTC/USDT", (5, 6), delay_s=0)
    await context.jobs.fill_gap("BTC/USDT")
    for job_id in await arq.zrange(arq.default_queue_name, 0, -1):
        await arq.set(retry_key_prefix + job_id.decode(), 20)

    await worker.main()
    assert (worker.jobs_complete, worker.jobs_failed) == (2, 0)
