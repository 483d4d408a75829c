"""The whole thread with its socket cut: what was traded meanwhile is there soon after, to the last id."""

import asyncio
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from arq.worker import Worker
from redis.asyncio import Redis

from consumers.consumer import Consumer
from jobs.context import WorkerContext
from kraken_history.completeness.holes import find_holes
from kraken_history.fetching.gaps import GapFiller
from kraken_history.fetching.queue import JobQueue, decode_job, encode_job, queue_on
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.limiter import RateLimiter
from kraken_history.kraken.pacing import Pacing
from kraken_history.kraken.resolver import Resolver
from kraken_history.kraken.rest import Refusal
from kraken_history.settings import Settings
from kraken_history.storing.store import Store
from kraken_history.stream.publisher import Publisher
from producers.feed import Feed
from simulator import Simulator
from simulator.rate_limit import RateLimit
from tests.gaps.conftest import PAIR, SYMBOL
from tests.gaps.truth import assert_complete, emit_over, true_ids
from tests.support.exchanges import ManualClock
from tests.support.proxy import Proxy
from tests.support.queue import connect_queue
from tests.support.streams import STREAMS
from tests.support.waiting import until

SPACING_S = 1.0
MINUTES, TRADES_A_MINUTE = 10, 900


class CountingLimiter(RateLimiter):
    """The real one, which also counts."""

    calls = 0

    async def wait_for_turn(self, pair: str) -> None:
        await super().wait_for_turn(pair)
        self.calls += 1

    async def note_refusal(self, pair: str, refusal: Refusal = Refusal()) -> float:  # noqa: B008 — a frozen struct
        raise AssertionError("the simulator has a limit like Kraken's, and was asked too often")


@pytest.fixture
def clock() -> ManualClock:
    """Behind by what the test lets go by, since the worker goes by the real time."""
    return ManualClock(time.time_ns() - (MINUTES + 1) * 60 * 10**9)


@pytest.fixture
async def kraken(clock: ManualClock) -> AsyncIterator[Simulator]:
    """Its REST has Kraken's limit: a burst of 30, then one a second."""
    async with Simulator(symbols=[SYMBOL], emitting=False, history=3_000, history_hours=6, clock=clock) as kraken:
        yield kraken


@asynccontextmanager
async def running_worker(redis_url: str, context: WorkerContext) -> AsyncIterator[Worker]:
    """arq, with the jobs and the sweep."""
    from jobs.worker import WorkerSettings  # reads the environment when it is imported

    worker = Worker(
        list(WorkerSettings.functions),
        cron_jobs=[cron for cron in WorkerSettings.cron_jobs if cron.name == "cron:sweep"],
        redis_pool=await connect_queue(redis_url),
        queue_name=None,
        job_serializer=encode_job,
        job_deserializer=decode_job,
        ctx={"context": context},
        handle_signals=False,
        poll_delay=0.1,
    )
    task = asyncio.create_task(worker.async_run())
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # arq closes its client by a name redis gave up
            await worker.close()


async def test_ten_minutes_of_heavy_trading_without_a_socket_are_healed_to_the_last_id(
    pool: asyncpg.Pool, kraken: Simulator, rest: KrakenRest, redis_url: str, clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("REDIS_URL", redis_url)
    settings = Settings(symbols=(SYMBOL,), history_days=1)
    async with (
        Redis.from_url(redis_url) as redis,
        Proxy(kraken.ws_url) as proxy,
        Publisher(redis) as publisher,
        asyncio.TaskGroup() as tasks,
    ):
        limiter = CountingLimiter(redis, Pacing(SPACING_S, 0.25))
        jobs = JobQueue(queue_on(redis))
        connected = asyncio.Event()
        feed = Feed(publisher, url=proxy.url.replace("@", ""), symbols=[SYMBOL], on_connected=connected.set)
        consumer = Consumer(redis, Store(pool), name="a", streams=STREAMS, on_holes=jobs.heal_new_holes)
        running = [tasks.create_task(feed.run()), tasks.create_task(consumer.run(asyncio.Event()))]
        async with KrakenRest(kraken.rest_url, limiter) as limited:
            context = WorkerContext(settings, pool, Store(pool), limited, Resolver(limited.fetch_asset_pairs), jobs)
            async with running_worker(redis_url, context):
                await connected.wait()
                connected.clear()
                await jobs.fill_gaps_after_connecting([SYMBOL])
                await until(lambda: all_stored(pool, kraken), timeout_s=30)
                clock.advance(20)
                kraken.emit(100)  # the first part of a minute
                await until(lambda: all_stored(pool, kraken))
                await proxy.cut()
                missed_from = len(true_ids(kraken, SYMBOL))
                emit_over(kraken, MINUTES, TRADES_A_MINUTE)
                missed = len(true_ids(kraken, SYMBOL)) - missed_from - 50  # a snapshot brings the latest
                await asyncio.sleep(SPACING_S)
                calls = limiter.calls
                await proxy.restore()
                await connected.wait()
                started = time.monotonic()
                await jobs.fill_gaps_after_connecting([SYMBOL])
                emitting = tasks.create_task(keep_trading(kraken, clock))
                await until(lambda: stored_count(pool, missed_from + missed), timeout_s=60)
                await until(lambda: healed(pool), timeout_s=60)
                took_s = time.monotonic() - started
                emitting.cancel()
                await until(lambda: all_stored(pool, kraken), timeout_s=30)
                calls = limiter.calls - calls
        for task in running:
            task.cancel()
    pages = -(-missed // 1_000)
    allowed_s = pages * SPACING_S + 5
    with capsys.disabled():
        print(  # noqa: T201
            f"\ncut for {MINUTES} min: {missed} trades missed, {pages} pages needed, {calls} calls made,"
            f" healed {took_s:.1f} s after connecting, {allowed_s:.0f} s allowed"
        )

    ask_freely(kraken)
    await assert_complete(pool, kraken, rest, PAIR)
    assert missed > 8_000
    assert took_s <= allowed_s


def ask_freely(kraken: Simulator) -> None:
    """The test may ask for the truth as often as it likes."""
    kraken.rest._limit = RateLimit(1_000_000, 1.0)


async def keep_trading(kraken: Simulator, clock: ManualClock) -> None:
    """The live feed goes on while the gap is filled."""
    while True:
        clock.advance(0.05)
        kraken.emit(3)
        await asyncio.sleep(0.05)


async def all_stored(pool: asyncpg.Pool, kraken: Simulator) -> bool:
    return await stored_count(pool, len(true_ids(kraken, SYMBOL)))


async def stored_count(pool: asyncpg.Pool, at_least: int) -> bool:
    count: int = await pool.fetchval("SELECT count(*) FROM trades")
    return count >= at_least


async def healed(pool: asyncpg.Pool) -> bool:
    return not await find_holes(pool)


async def test_gaps_are_filled_beside_the_live_feed_without_a_repeat_or_a_hole(
    pool: asyncpg.Pool, filler: GapFiller, kraken: Simulator, rest: KrakenRest, store: Store, clock: ManualClock
) -> None:
    ask_freely(kraken)
    stop = asyncio.Event()

    async def live() -> None:
        """What the consumer does: the newest trades, now and then with one let go, some of them twice."""
        while not stop.is_set():
            clock.advance(1)
            kraken.emit(40)
            page = await rest.fetch_trades_page(PAIR, kraken.exchange.tapes[SYMBOL].latest(45)[0].time_ns)
            await store.write([trade for trade in page.trades if trade.id % 11])
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(live())
        for _ in range(8):
            await filler.fill_all_gaps(min_gap_minutes=0.01)
        stop.set()
    summary = await filler.fill_all_gaps(min_gap_minutes=0)

    assert summary["errors"] == []
    await assert_complete(pool, kraken, rest, PAIR)
