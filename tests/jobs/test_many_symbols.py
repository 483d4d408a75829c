"""What the worker does every few seconds, for all 1,100 pairs of Kraken.

Each of 1,100 jobs once looked for the holes of all symbols, every five minutes: a pass took 90 s of processor time.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from arq.connections import ArqRedis

from jobs.aggregates import refresh_aggregates
from jobs.backfill import sweep_backfills
from jobs.context import WorkerContext
from jobs.figures import note_backfills, note_missing, note_uncovered
from jobs.gaps import fill_gaps
from jobs.heal import sweep
from jobs.leaps import request_confirmations
from jobs.tails import TailWatch
from kraken_history.clock import utc_now
from kraken_history.database.connections import create_pool
from kraken_history.fetching.queue import JobQueue
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.resolver import Resolver
from kraken_history.settings import Settings
from kraken_history.storing.store import Store
from tests.support.examples import make_trade
from tests.support.kraken import NoLimit
from tests.support.queue import connect_queue
from tests.support.servers import DatabaseServer

FEW, MANY = 110, 1_100
MOST_TIMES_AS_LONG = 30.0
"""Ten times as many symbols may take ten times as long. If each job looks at all symbols, they take a hundred times."""

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)

Pass = Callable[[WorkerContext, ArqRedis], Awaitable[object]]


async def _figures(context: WorkerContext, _: ArqRedis) -> None:
    await note_uncovered(context.pool, dict.fromkeys(context.symbols, 1), live_ids={}, now=context.rest.clock.now())
    await note_missing(context.pool, context.symbols)
    await note_backfills(context.pool)


PASSES: dict[str, Pass] = {
    "sweep": lambda context, redis: sweep({"context": context, "redis": redis}),
    "fill_gaps": lambda context, redis: fill_gaps({"context": context, "redis": redis}),
    "sweep_backfills": lambda context, redis: sweep_backfills({"context": context, "redis": redis}),
    "refresh_aggregates": lambda context, redis: refresh_aggregates({"context": context, "redis": redis}),
    "figures": _figures,
    "tails": lambda context, redis: TailWatch(context, redis).look(),
    "confirmations": lambda context, _: request_confirmations(context),
}


@dataclass
class Counted:
    """A worker's surroundings, and the statements on its one connection."""

    context: WorkerContext
    statements: list[str]


@pytest.fixture
async def filled(database_server: DatabaseServer, redis_url: str) -> AsyncIterator[Callable[[int], Awaitable[Counted]]]:
    """Opens a database with complete, live symbols: ``await filled(1_100)``."""
    urls, pools = [], []
    async with await connect_queue(redis_url) as arq, KrakenRest("http://localhost:9", NoLimit()) as rest:

        async def fill(count: int) -> Counted:
            urls.append(database_server.create_migrated_database())
            pools.append(pool := await create_pool(urls[-1], min_size=1, max_size=1))
            symbols = [f"T{number}/USD" for number in range(count)]
            begin, now = utc_now() - timedelta(days=2), utc_now()
            store = Store(pool)
            await store.write([make_trade(1, begin, symbol=symbol) for symbol in symbols])
            await store.write([make_trade(2, now - timedelta(seconds=30), symbol=symbol) for symbol in symbols])
            settings = Settings(symbols=tuple(symbols), history_days=1)
            resolver, jobs = Resolver(rest.fetch_asset_pairs), JobQueue(arq)
            statements: list[str] = []
            async with pool.acquire() as connection:
                connection.add_query_logger(lambda record: statements.append(record.query))
            return Counted(WorkerContext(settings, pool, store, rest, resolver, jobs), statements)

        yield fill
    for pool, url in zip(pools, urls, strict=True):
        pool.terminate()
        database_server.drop_database(url)


@pytest.mark.parametrize("name", PASSES)
async def test_a_pass_asks_for_all_symbols_at_once(
    name: str, filled: Callable[[int], Awaitable[Counted]], arq: ArqRedis
) -> None:
    statements, seconds = [], []
    for count in (FEW, MANY):
        worker = await filled(count)
        await PASSES[name](worker.context, arq)  # the first one has the symbols' work to do
        worker.statements.clear()
        begin = time.process_time()
        await PASSES[name](worker.context, arq)
        seconds.append(time.process_time() - begin)
        statements.append(len(worker.statements))

    assert statements[0] > 0
    assert statements[1] == statements[0]
    assert await arq.queued_jobs() == []
    assert seconds[1] < MOST_TIMES_AS_LONG * max(seconds[0], 0.001)


async def test_a_symbol_with_a_gap_gets_its_job(filled: Callable[[int], Awaitable[Counted]], arq: ArqRedis) -> None:
    worker = await filled(FEW)
    await worker.context.store.write([make_trade(9, symbol="T7/USD", at=utc_now() - timedelta(seconds=20))])
    worker.context.settings = Settings(symbols=(*worker.context.symbols, "NEW/USD"), history_days=1)

    await fill_gaps({"context": worker.context, "redis": arq})

    assert sorted(str(job.job_id) for job in await arq.queued_jobs()) == ["fill-gap:NEW/USD:0", "fill-gap:T7/USD:0"]
