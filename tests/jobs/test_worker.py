"""The worker's start, and what it leaves to the next."""

import asyncio
import secrets
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import pytest
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, retry_key_prefix
from arq.worker import Worker
from structlog.testing import capture_logs

from jobs.context import WorkerContext
from kraken_history.database.connections import create_pool
from kraken_history.storing.store import Store
from tests.support.waiting import until


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


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_worker_that_starts_without_a_free_connection_waits(
    pool: asyncpg.Pool, context: WorkerContext, migrated_database_url: str, arq: ArqRedis
) -> None:
    """The user may have five connections, and others hold them: the worker ended in a traceback again and again."""
    from jobs.worker import request_known_work  # reads the environment when it is imported

    user = f"test_{secrets.token_hex(6)}"
    await pool.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'x' CONNECTION LIMIT 1 IN ROLE kraken_writer")
    parts = urlsplit(migrated_database_url)
    url = urlunsplit(parts._replace(netloc=f"{user}:x@{parts.hostname}:{parts.port}"))
    try:
        async with await create_pool(url, min_size=1, max_size=3) as few, few.acquire() as held:
            crowded = msgspec.structs.replace(context, pool=few, store=Store(few))
            with capture_logs() as logs:
                requesting = asyncio.create_task(
                    request_known_work({"context": crowded, "redis": arq}, again_after_s=0.05)
                )
                await until(lambda: [log["event"] for log in logs] == ["waiting"])
                assert "too many connections" in logs[0]["error"]
                assert not requesting.done()
                await pool.execute(f"ALTER ROLE {user} CONNECTION LIMIT 3")
                async with asyncio.timeout(20):
                    await requesting

            assert [log["event"] for log in logs if log["event"] in ("waiting", "going_on")] == ["waiting", "going_on"]
            assert await arq.zcard(arq.default_queue_name) > 0
            assert await held.fetchval("SELECT 1") == 1
    finally:
        await pool.execute(f"DROP ROLE {user}")
