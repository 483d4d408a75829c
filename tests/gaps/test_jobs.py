"""The worker's part: one job a symbol, its successors, and who asks for it."""

import warnings
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from arq import Retry
from arq.connections import ArqRedis
from arq.worker import Worker
from redis.asyncio import Redis

import jobs.gaps
from jobs.context import WorkerContext
from jobs.gaps import fill_gap, fill_gaps
from jobs.heal import sweep
from kraken_history.clock import utc_now
from kraken_history.completeness.absence import note_passed_over
from kraken_history.completeness.holes import find_holes
from kraken_history.fetching.queue import JobQueue, decode_job, encode_job, queue_on
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.resolver import Resolver
from kraken_history.ledger import IdRanges
from kraken_history.settings import Settings
from kraken_history.storing.store import Store
from simulator import Simulator
from tests.gaps.conftest import PAIR, SYMBOL, Counting
from tests.gaps.truth import assert_complete
from tests.support.kraken import all_trades
from tests.support.proxy import Proxy
from tests.support.queue import connect_queue
from tests.support.records import trades
from tests.support.servers import DatabaseServer


@pytest.fixture
def database_server(_postgresql_server: DatabaseServer) -> DatabaseServer:
    """One kind will do: this is about jobs."""
    return _postgresql_server


@pytest.fixture
async def arq(redis_url: str) -> AsyncIterator[ArqRedis]:
    async with await connect_queue(redis_url) as arq:
        yield arq


@pytest.fixture
async def kraken() -> AsyncIterator[Simulator]:
    """By the real clock, since that is the worker's."""
    async with Simulator(
        symbols=[SYMBOL], emitting=False, history=2_600, history_hours=6, rest_burst=1_000_000
    ) as kraken:
        yield kraken


@pytest.fixture
def context(pool: asyncpg.Pool, arq: ArqRedis, rest: KrakenRest) -> WorkerContext:
    settings = Settings(symbols=(SYMBOL,), history_days=1)
    return WorkerContext(
        settings, pool, Store(pool), rest, Resolver(rest.fetch_asset_pairs), JobQueue(arq, heal_delay_s=0.01)
    )


@pytest.fixture
def ctx(context: WorkerContext, arq: ArqRedis) -> dict[str, Any]:
    return {"context": context, "redis": arq}


@pytest.fixture
async def run_worker(
    redis_url: str, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Any]]:
    """Runs what is in the queue, and what that asks for, to the end; gives the worker."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    from jobs.worker import WorkerSettings  # reads the environment when it is imported

    workers: list[Worker] = []

    async def run() -> Worker:
        worker = Worker(
            list(WorkerSettings.functions),
            redis_pool=await connect_queue(redis_url),
            queue_name=None,
            job_serializer=encode_job,
            job_deserializer=decode_job,
            ctx={"context": context},
            burst=True,
            handle_signals=False,
            poll_delay=0.01,
        )
        workers.append(worker)
        await worker.async_run()
        return worker

    yield run
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # arq closes its client by a name that redis gave up
        for worker in workers:
            await worker.close()


async def queued(arq: ArqRedis) -> list[str]:
    return sorted(str(job.job_id) for job in await arq.queued_jobs())


class TestTheJob:
    async def test_a_new_symbol_gets_its_history(
        self, ctx: dict[str, Any], pool: asyncpg.Pool, kraken: Simulator, rest: KrakenRest,
        run_worker: Callable[[], Any],
    ) -> None:  # fmt: skip
        await fill_gaps(ctx)
        await run_worker()

        await assert_complete(pool, kraken, rest, PAIR)

    async def test_before_the_oldest_trade_one_page_is_fetched_and_the_rest_is_a_hole_to_heal(
        self, ctx: dict[str, Any], pool: asyncpg.Pool, kraken: Simulator, rest: KrakenRest, arq: ArqRedis,
        limiter: Counting, context: WorkerContext, run_worker: Callable[[], Any],
    ) -> None:  # fmt: skip
        known = await all_trades(rest, PAIR)
        await context.store.write(known[-50:])  # a snapshot of the live feed
        calls = limiter.calls
        stored = await fill_gap(ctx, SYMBOL, 2, 0)

        assert limiter.calls - calls <= 2  # its page, and one for the minutes since the newest trade, if any
        assert stored == 1_000
        missing = (await find_holes(pool))[SYMBOL]
        assert await queued(arq) == [f"heal:{SYMBOL}:{first}:{stop}:" for first, stop in missing]
        await run_worker()
        await assert_complete(pool, kraken, rest, PAIR)

    async def test_a_long_time_since_the_newest_trade_takes_several_jobs(
        self, ctx: dict[str, Any], pool: asyncpg.Pool, kraken: Simulator, rest: KrakenRest, arq: ArqRedis,
        run_worker: Callable[[], Any], monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(jobs.gaps, "PAGES_A_JOB", 1)
        await fill_gaps(ctx)
        assert await queued(arq) == [f"fill-gap:{SYMBOL}:0"]
        worker = await run_worker()

        assert worker.jobs_complete == 3
        assert await queued(arq) == []
        await assert_complete(pool, kraken, rest, PAIR)

    async def test_nothing_is_fetched_where_nothing_is_missing(
        self, ctx: dict[str, Any], context: WorkerContext, limiter: Counting, run_worker: Callable[[], Any]
    ) -> None:
        await fill_gaps(ctx)
        await run_worker()
        calls = limiter.calls

        assert await fill_gap(ctx, SYMBOL, 2, 0) == 0
        assert limiter.calls == calls

    async def test_while_kraken_is_away_it_is_tried_again_later(self, ctx: dict[str, Any], kraken: Simulator) -> None:
        await kraken.stop()

        with pytest.raises(Retry) as retry:
            await fill_gap(ctx, SYMBOL, 2, 0)
        assert retry.value.defer_score == jobs.gaps._RETRY_AFTER_S * 1000

    async def test_without_candles_the_trades_are_fetched_all_the_same(
        self,
        ctx: dict[str, Any],
        pool: asyncpg.Pool,
        kraken: Simulator,
        rest: KrakenRest,
        run_worker: Callable[[], Any],
    ) -> None:
        del kraken.rest._methods["OHLC"]
        await fill_gaps(ctx)
        await run_worker()
        await pool.execute(
            "UPDATE data_sync_status SET time_ranges = time_ranges - tstzmultirange(tstzrange($1, NULL))",
            utc_now() - timedelta(minutes=30),
        )
        kraken.emit(300)
        await fill_gap(ctx, SYMBOL, 0.001, 0)

        await assert_complete(pool, kraken, rest, PAIR)

    async def test_a_symbol_that_kraken_does_not_list_does_not_stop_the_worker(self, ctx: dict[str, Any]) -> None:
        assert await fill_gap(ctx, "NO/SUCH", 2, 0) == 0


class TestAsking:
    async def test_the_same_symbol_is_in_the_queue_once(self, arq: ArqRedis) -> None:
        queue = JobQueue(arq)

        assert await queue.fill_gaps([SYMBOL, "ETH/USDT"]) == 2
        assert await queue.fill_gaps([SYMBOL, "ETH/USDT"], delay_s=5) == 0
        assert await queued(arq) == ["fill-gap:BTC/USDT:0", "fill-gap:ETH/USDT:0"]

    async def test_a_successor_takes_the_other_turn_and_keeps_others_out(self, arq: ArqRedis) -> None:
        queue = JobQueue(arq)
        await queue.fill_gap(SYMBOL, turn=0)

        assert await queued(arq) == ["fill-gap:BTC/USDT:1"]
        assert not await queue.fill_gap(SYMBOL)
        assert await queue.fill_gap(SYMBOL, turn=1)

    async def test_what_is_left_of_a_hole_that_is_being_healed_is_not_asked_for_anew(self, arq: ArqRedis) -> None:
        """Each page once made the hole shorter, so that each commit asked for a "new" one: ever more fetched it."""
        queue = JobQueue(arq)
        await queue.heal_new_holes({SYMBOL: IdRanges([(5, 90_000)])})
        for first in range(1_000, 20_000, 1_000):
            await queue.heal_new_holes({SYMBOL: IdRanges([(first, 90_000)])})
            assert await queue.heal_holes({SYMBOL: IdRanges([(first, 90_000)])}) == 0

        assert await queued(arq) == [f"heal:{SYMBOL}:5:90000:"]

    async def test_holes_within_a_page_of_each_other_are_one_job(self, arq: ArqRedis) -> None:
        near, far = [(5, 9), (1_008, 1_010), (2_009, 2_010)], [(3_010, 3_011)]

        assert await JobQueue(arq).heal_holes({SYMBOL: IdRanges([*near, *far])}) == 2
        assert await queued(arq) == [f"heal:{SYMBOL}:3010:3011:", f"heal:{SYMBOL}:5:2010:"]

    async def test_a_redis_that_is_away_does_not_fail_the_producer(self, redis_url: str, arq: ArqRedis) -> None:
        async with Proxy(redis_url) as proxy, Redis.from_url(proxy.url) as redis:
            queue = JobQueue(queue_on(redis), heal_delay_s=0)
            await proxy.cut()
            await queue.fill_gaps_after_connecting([SYMBOL])
            assert await queued(arq) == []
            await proxy.restore()
            await queue.fill_gaps_after_connecting([SYMBOL])

        assert await queued(arq) == [f"fill-gap:{SYMBOL}:0"]


class TestTheSweep:
    async def test_ids_that_were_passed_over_just_now_are_left_for_a_minute(
        self, ctx: dict[str, Any], pool: asyncpg.Pool, store: Store, arq: ArqRedis
    ) -> None:
        await store.write(trades([1, 2, 6, 7]))
        ids = IdRanges([(3, 6)])
        await note_passed_over(pool, "BTC/USDT", ids, seen_at=utc_now())
        assert await sweep(ctx) == 0
        await pool.execute("UPDATE absence_evidence SET seen_at = seen_at - interval '61 seconds'")
        assert await sweep(ctx) == 1
        await note_passed_over(pool, "BTC/USDT", ids, seen_at=utc_now() + timedelta(seconds=1))
        await arq.flushdb()

        assert await sweep(ctx) == 0

    async def test_a_hole_that_a_running_backfill_fills_costs_no_call(
        self, ctx: dict[str, Any], pool: asyncpg.Pool, store: Store, limiter: Counting, run_worker: Callable[[], Any]
    ) -> None:
        await store.write(trades([1, 90_000], SYMBOL))
        await pool.execute(
            "INSERT INTO backfills (symbol, target_end, next_since) VALUES ($1, now() + interval '1 year', 0)", SYMBOL
        )
        assert await sweep(ctx) == 1
        await run_worker()

        assert limiter.calls == 0
        assert len((await find_holes(pool))[SYMBOL]) == 89_998


def test_jobs_of_the_worker_are_registered(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    from jobs.worker import WorkerSettings

    names = {getattr(function, "name", None) for function in WorkerSettings.functions}
    clocks = {cron.name: cron for cron in WorkerSettings.cron_jobs}
    assert {"heal", "fill-gap"} <= names
    assert clocks["cron:fill_gaps"].minute == set(range(0, 60, 5))
