"""The worker's job: an import that was asked for is done, or the log says that it is not."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from arq import Retry
from arq.connections import ArqRedis
from structlog.testing import capture_logs

from jobs.context import WorkerContext
from jobs.csv_import import IMPORT_TRIES, import_csv
from kraken_history.database.connections import create_pool
from kraken_history.fetching.queue import IMPORT_CSV, JobQueue
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.limiter import LocalRateLimiter
from kraken_history.kraken.resolver import Resolver
from kraken_history.settings import Settings
from kraken_history.storing.store import Store
from tests.support.csv_files import candle_line, write
from tests.support.queue import connect_queue

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
AWAY = "http://127.0.0.1:9"


@pytest.fixture
async def arq(redis_url: str) -> AsyncIterator[ArqRedis]:
    async with await connect_queue(redis_url) as arq:
        yield arq


@pytest.fixture
async def context(pool: asyncpg.Pool, arq: ArqRedis) -> AsyncIterator[WorkerContext]:
    async with KrakenRest(AWAY, LocalRateLimiter(), attempts=1) as rest:
        yield WorkerContext(Settings(), pool, Store(pool), rest, Resolver(rest.fetch_asset_pairs), JobQueue(arq))


@pytest.fixture
async def without_database(context: WorkerContext, migrated_database_url: str) -> WorkerContext:
    """The same, but the database is gone."""
    gone = await create_pool(migrated_database_url, min_size=1, max_size=1)
    gone.terminate()
    return WorkerContext(context.settings, gone, context.store, context.rest, context.pairs, context.jobs)


def ctx(context: WorkerContext, job_try: int) -> dict[str, Any]:
    return {"context": context, "job_try": job_try}


async def test_a_database_that_is_away_is_tried_again(tmp_path: Path, without_database: WorkerContext) -> None:
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(0)])

    with capture_logs() as logs, pytest.raises(Retry):
        await import_csv(ctx(without_database, 1), [str(path)], None)

    (said,) = logs
    assert (said["event"], said["job_try"], said["paths"]) == ("csv_import_postponed", 1, [str(path)])
    assert said["reason"].startswith("the database cannot be reached: ")


async def test_the_last_try_that_fails_says_what_to_do(tmp_path: Path, without_database: WorkerContext) -> None:
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(0)])

    with capture_logs() as logs:
        await import_csv(ctx(without_database, IMPORT_TRIES), [str(path)], "BTC/USDT")

    (said,) = logs
    assert (said["event"], said["log_level"]) == ("csv_import_given_up", "error")
    assert (said["paths"], said["symbol"]) == ([str(path)], "BTC/USDT")
    assert said["hint"].startswith("request the import again")


@pytest.mark.parametrize(("job_try", "event"), [(1, "csv_import_postponed"), (IMPORT_TRIES, "csv_import_given_up")])
async def test_a_worker_that_stops_in_the_middle_says_so_and_stores_nothing_of_the_file(
    tmp_path: Path, context: WorkerContext, pool: asyncpg.Pool, job_try: int, event: str
) -> None:
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(0)])
    async with pool.acquire() as holder, holder.transaction():
        await holder.execute("LOCK candles IN EXCLUSIVE MODE")
        with capture_logs() as logs:
            working = asyncio.ensure_future(import_csv(ctx(context, job_try), [str(path)], None))
            while not await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            working.cancel()
            with pytest.raises(asyncio.CancelledError):
                await working

    assert [said["event"] for said in logs] == [event]
    assert await pool.fetchval("SELECT count(*) FROM candles") == 0
    assert await import_csv(ctx(context, job_try), [str(path)], None) == 1


async def test_an_import_that_has_taken_too_long_is_given_up_since_nobody_runs_it_again(
    tmp_path: Path, context: WorkerContext, pool: asyncpg.Pool
) -> None:
    # It was said to be postponed. The worker ends a job by its timeout once and for all.
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(0)])
    async with pool.acquire() as holder, holder.transaction():
        await holder.execute("LOCK candles IN EXCLUSIVE MODE")
        with capture_logs() as logs, pytest.raises(TimeoutError):
            await asyncio.wait_for(import_csv(ctx(context, 1), [str(path)], None, timeout_s=1.5), 1.5)

    (said,) = logs
    assert (said["event"], said["log_level"], said["paths"]) == ("csv_import_given_up", "error", [str(path)])
    assert "longer than" in said["reason"]


async def test_a_path_that_leads_nowhere_is_given_up_at_once(tmp_path: Path, context: WorkerContext) -> None:
    with capture_logs() as logs:
        await import_csv(ctx(context, 1), [str(tmp_path / "nowhere")], None)

    (said,) = logs
    assert said["event"] == "csv_import_given_up"
    assert said["reason"] == f"{tmp_path}/nowhere: no such file or folder"


async def test_a_bug_is_told_and_not_tried_again(tmp_path: Path, context: WorkerContext) -> None:
    with capture_logs() as logs, pytest.raises(TypeError):
        await import_csv(ctx(context, 1), [None], None)  # type: ignore[list-item]

    assert [said["event"] for said in logs] == ["csv_import_given_up"]


async def test_the_worker_gives_it_as_many_tries_as_the_job_counts(
    redis_url: str, database_server: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    from jobs.worker import WorkerSettings  # reads the environment when it is imported

    (tries,) = [getattr(f, "max_tries", None) for f in WorkerSettings.functions if getattr(f, "name", "") == IMPORT_CSV]

    assert tries == IMPORT_TRIES
