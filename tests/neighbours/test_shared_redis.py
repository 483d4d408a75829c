"""A Redis that other programs use too, among them another application of arq."""

import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import arq
import msgspec
import pytest
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from jobs.old_queue import take_over_old_jobs
from kraken_history.errors import UsageError
from kraken_history.fetching.queue import IMPORT_CSV, JobQueue, encode_job, queue_on
from kraken_history.settings import load_settings
from tests.support.command import Run
from tests.support.neighbours import redis_server
from tests.support.queue import connect_queue
from tests.support.services import WORKER, Service
from tests.support.waiting import until

pytestmark = pytest.mark.servers
plain_only = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


@pytest.fixture
def shared_url() -> Iterator[str]:
    """Debian's Redis."""
    with redis_server() as port:
        yield f"redis://127.0.0.1:{port}/0"


@asynccontextmanager
async def foreign_application(url: str) -> AsyncIterator[ArqRedis]:
    """Another arq application, as its manual writes it: pickled jobs, the usual queue."""
    pool = await arq.create_pool(RedisSettings.from_dsn(url))
    try:
        yield pool
    finally:
        await pool.aclose()


async def their_job(ctx: dict[str, Any], number: int) -> int:
    """A job of the other application."""
    ctx["done"].append(number)
    return number


async def run_foreign_worker(pool: ArqRedis) -> list[int]:
    """Do all of the other application's jobs."""
    done: list[int] = []
    worker = Worker([their_job], redis_pool=pool, burst=True, handle_signals=False, ctx={"done": done}, poll_delay=0.01)
    await worker.async_run()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # arq closes its client by a name that redis gave up
        await worker.close()
    return sorted(done)


def running_worker(database_url: str, redis_url: str, folder: Path, **more: str) -> Service:
    """Our worker, without a Kraken."""
    return Service(
        WORKER,
        folder / "worker.log",
        {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "KRAKEN_REST_URL": "http://127.0.0.1:9", **more},
    )


@plain_only
async def test_jobs_of_another_application_are_left_alone(
    migrated_database_url: str, shared_url: str, tmp_path: Path
) -> None:
    # The worker took 6 of 6 jobs from the common queue, could not read them and deleted them, and it cleared the other
    # worker's marks of jobs at work.
    async with foreign_application(shared_url) as pool, await connect_queue(shared_url) as queue:
        for number in range(6):
            await pool.enqueue_job("their_job", number)
        await pool.set("arq:in-progress:theirs", b"1")
        with running_worker(migrated_database_url, shared_url, tmp_path) as worker:
            await JobQueue(queue).refresh()
            await until(lambda: "refresh" in worker.output)
            await until(lambda: pool.exists("kraken:jobs:health-check"))
            await until(lambda: _is_done(queue))

            assert await pool.exists("arq:in-progress:theirs")
            assert await pool.zcard("arq:queue") == 6
            names = {key.decode() async for key in pool.scan_iter()}
            assert {name.partition(":")[0] for name in names} == {"arq", "kraken"}
            assert all(
                name.startswith(("arq:job:", "arq:queue", "arq:in-progress:theirs"))
                for name in names
                if not name.startswith("kraken:")
            )
            assert worker.terminate() == 0
        assert "Traceback" not in worker.output
        assert await run_foreign_worker(pool) == list(range(6))


async def _is_done(queue: ArqRedis) -> bool:
    return await queue.zscore(queue.default_queue_name, "refresh") is None


@plain_only
async def test_the_other_application_leaves_ours_alone(migrated_database_url: str, shared_url: str) -> None:
    async with foreign_application(shared_url) as pool, await connect_queue(shared_url) as queue:
        await pool.enqueue_job("their_job", 1, _job_id="refresh")
        assert await JobQueue(queue).refresh()  # an id that is taken there is free here

        assert await run_foreign_worker(pool) == [1]
        assert await queue.zrange("kraken:jobs", 0, -1) == [b"refresh"]


async def test_two_installations_share_a_redis(shared_url: str) -> None:
    async with await connect_queue(shared_url) as first, await connect_queue(f"{shared_url}?prefix=second") as second:
        assert await JobQueue(first).refresh()
        assert await JobQueue(second).refresh()

        assert {key.decode() async for key in Redis(connection_pool=first.connection_pool).scan_iter()} == {
            "kraken:jobs",
            "kraken:arq:job:refresh",
            "second:jobs",
            "second:arq:job:refresh",
        }


async def test_jobs_of_an_older_version_are_taken_over(shared_url: str) -> None:
    async with foreign_application(shared_url) as pool, await connect_queue(shared_url) as queue:
        await pool.enqueue_job("their_job", 1)
        old = Redis.from_url(shared_url)
        body = encode_job({"t": None, "f": IMPORT_CSV, "a": [["/x.zip"], None], "k": {}, "et": 1})
        await old.psetex("arq:job:import-csv::/x.zip", 60_000, body)
        await old.zadd("arq:queue", {"import-csv::/x.zip": 17})
        await old.set("arq:in-progress:import-csv::/x.zip", 1)

        assert await take_over_old_jobs(queue, {IMPORT_CSV}) == 1
        assert await take_over_old_jobs(queue, {IMPORT_CSV}) == 0

        (job,) = await queue.queued_jobs()
        assert [job.function, job.args, job.score] == [IMPORT_CSV, [["/x.zip"], None], 17]
        assert not await old.keys("arq:*import*")
        assert await run_foreign_worker(pool) == [1]
        await old.aclose()


@pytest.mark.slow
@plain_only
def test_every_key_has_the_configured_prefix(
    database_url: str, shared_url: str, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_PREFIX", "mine:2")

    outcome = command("demo", "--seconds", "3", "--json", DATABASE_URL=database_url, REDIS_URL=shared_url)

    assert msgspec.json.decode(outcome.out)["ok"], outcome.err
    with BlockingRedis.from_url(shared_url) as redis:
        names = {key.decode() for key in redis.scan_iter()}
    assert {name for name in names if not name.startswith("mine:2:")} == set()
    assert {"mine:2:trades:{0}", "mine:2:candles:{0}"} <= names
    status = command("status", "--json", DATABASE_URL=database_url, REDIS_URL=shared_url)
    assert "mine:2:trades:{0}" in status.out


@pytest.mark.parametrize("prefix", ["", "a b", "a*", "{a}", ":a", "a:"])
def test_a_prefix_that_cannot_be_one_is_refused(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setenv("REDIS_PREFIX", prefix)

    with pytest.raises(UsageError, match="REDIS_PREFIX"):
        load_settings()


async def test_options_of_other_clients_in_the_url_do_no_harm(shared_url: str) -> None:
    async with await connect_queue(f"{shared_url}?decode_responses=true&protocol=3&socket_timeout=0.01") as queue:
        await JobQueue(queue).heal("BTC/USDT", (1, 5))

        assert await queue.zrange(queue.default_queue_name, 0, -1) == [b"heal:BTC/USDT:1:5:"]
        assert await queue_on(queue).zcard("kraken:jobs") == 1
