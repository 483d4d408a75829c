"""A worker's surroundings: a database, a queue, and the simulator for a Kraken."""

import warnings
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from arq.connections import ArqRedis
from arq.worker import Worker

from jobs.context import WorkerContext
from kraken_history.database.connections import create_pool
from kraken_history.fetching.queue import JobQueue, decode_job, encode_job
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.resolver import Resolver
from kraken_history.settings import Settings
from kraken_history.storing.store import Store
from simulator import Simulator
from tests.support.kraken import NoLimit
from tests.support.queue import connect_queue


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    """Connections to a database with the schema and no rows."""
    async with await create_pool(migrated_database_url, min_size=1, max_size=4) as pool:
        yield pool


@pytest.fixture
async def arq(redis_url: str) -> AsyncIterator[ArqRedis]:
    """An empty queue."""
    async with await connect_queue(redis_url) as arq:
        yield arq


@pytest.fixture
async def kraken() -> AsyncIterator[Simulator]:
    """A Kraken with 3,000 trades of two hours, which makes no more."""
    async with Simulator(emitting=False, history=3_000, history_hours=2, rest_burst=1_000_000) as kraken:
        yield kraken


@pytest.fixture
async def context(pool: asyncpg.Pool, arq: ArqRedis, kraken: Simulator) -> AsyncIterator[WorkerContext]:
    """What the jobs work with; one attempt a call, no limit."""
    async with KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest:
        yield WorkerContext(
            Settings(), pool, Store(pool), rest, Resolver(rest.fetch_asset_pairs), JobQueue(arq, heal_delay_s=0.01)
        )


@pytest.fixture
async def worker(redis_url: str, context: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    """An arq worker with the project's functions that ends when the queue is empty."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    from jobs.worker import WorkerSettings  # reads the environment when it is imported

    functions: list[Any] = list(WorkerSettings.functions)
    worker = Worker(
        functions,
        redis_pool=await connect_queue(redis_url),
        queue_name=None,
        job_serializer=encode_job,
        job_deserializer=decode_job,
        ctx={"context": context},
        burst=True,
        handle_signals=False,
        poll_delay=0.01,
    )
    yield worker
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # arq closes its client by a name that redis gave up
        await worker.close()
