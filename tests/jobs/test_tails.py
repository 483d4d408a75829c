"""The newest trades of a symbol, lost on their way, and no newer one that would show it."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import asyncpg
import pytest
from arq.connections import ArqRedis
from arq.worker import Worker
from redis.asyncio import Redis

import jobs.tails
from consumers.consumer import Consumer
from jobs.context import WorkerContext
from jobs.tails import AGAIN_AFTER_S, TailWatch
from kraken_history.kraken.pairs import PairMap
from kraken_history.records import HistoricalTrade
from kraken_history.runtime.liveness import BEAT_LASTS_S, HEALTH_PREFIX
from kraken_history.runtime.signs import encode_sign
from kraken_history.storing.store import Store
from kraken_history.stream import wire
from tests.support.database import stored_ids
from tests.support.kraken import all_trades
from tests.support.signs import PRODUCER, sign
from tests.support.streams import STREAMS, is_settled, publish
from tests.support.waiting import until

SYMBOL = "BTC/USDT"
BTC = PairMap().find(SYMBOL)

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def receive(redis: Redis, trades: Sequence[HistoricalTrade], *, healthy: bool = True) -> None:
    """Leave the sign of life of a producer that has received these trades."""
    body = encode_sign(sign(PRODUCER, last_ids={SYMBOL: trades[-1].id}, healthy=healthy))
    await redis.set(f"{HEALTH_PREFIX}producer:a", body)


async def test_lost_trades_are_fetched_although_nobody_trades(
    context: WorkerContext, pool: asyncpg.Pool, arq: ArqRedis, worker: Worker
) -> None:
    # 103 of 207 trades stayed missing until a newer one came, or gap filling asked five minutes later.
    trades = await all_trades(context.rest, BTC)
    await context.store.write(trades[:-103])
    await receive(arq, trades)
    watch = TailWatch(context, arq)

    assert [await watch.look(), await watch.look()] == [0, 1]
    await worker.main()
    assert await stored_ids(pool) == [trade.id for trade in trades]
    assert await watch.look() == 0


async def test_trades_that_are_still_to_be_stored_are_not_lost(
    context: WorkerContext, pool: asyncpg.Pool, arq: ArqRedis, redis_url: str
) -> None:
    trades = await all_trades(context.rest, BTC)
    await context.store.write(trades[:-10])
    watch = TailWatch(context, arq)
    async with Redis.from_url(redis_url) as redis:
        await publish(redis, trades[-10:-5], trades[-5:])
        await receive(redis, trades)
        assert [await watch.look() for _ in range(4)] == [0, 0, 0, 0]  # nobody reads the stream yet

        await redis.xgroup_create(STREAMS[0], wire.STORE_GROUP, id="0")
        await redis.xreadgroup(wire.STORE_GROUP, "dead", {STREAMS[0]: ">"}, count=1)
        assert [await watch.look() for _ in range(3)] == [0, 0, 0]  # one is pending
        consumer = Consumer(redis, Store(pool), name="dead", streams=STREAMS, batch_max_age_s=0.01)
        running = asyncio.create_task(consumer.run(stop := asyncio.Event()))
        await until(lambda: is_settled(redis))
        await until(lambda: stored_all(pool, trades))
        stop.set()
        await running

    assert [await watch.look() for _ in range(3)] == [0, 0, 0]
    assert await arq.zcard(arq.default_queue_name) == 0


async def stored_all(pool: asyncpg.Pool, trades: Sequence[HistoricalTrade]) -> bool:
    return len(await stored_ids(pool)) == len(trades)


async def test_trades_that_a_wiped_redis_lost_are_lost(context: WorkerContext, arq: ArqRedis, redis_url: str) -> None:
    trades = await all_trades(context.rest, BTC)
    await context.store.write(trades[:-10])
    watch = TailWatch(context, arq)
    async with Redis.from_url(redis_url) as redis:
        await publish(redis, trades[-10:])
        await receive(redis, trades)
        assert [await watch.look(), await watch.look()] == [0, 0]
        await redis.flushall()
        await receive(redis, trades)

    assert await watch.look() == 1


async def test_a_tail_that_rest_does_not_show_is_requested_less_and_less(context: WorkerContext, arq: ArqRedis) -> None:
    trades = await all_trades(context.rest, BTC)
    await context.store.write(trades)
    clock = Clock()
    watch = TailWatch(context, arq, clock=clock)
    await arq.set(f"{HEALTH_PREFIX}producer:a", encode_sign(sign(PRODUCER, last_ids={SYMBOL: trades[-1].id + 5})))
    requested = []
    for clock.now_s in range(0, 200, 3):
        if await watch.look():
            requested.append(clock.now_s)
            await arq.flushall()
            await arq.set(
                f"{HEALTH_PREFIX}producer:a", encode_sign(sign(PRODUCER, last_ids={SYMBOL: trades[-1].id + 5}))
            )

    waits = [later - earlier for earlier, later in pairwise(requested)]
    assert requested[0] == 3
    assert waits == sorted(waits)
    assert waits[0] >= AGAIN_AFTER_S
    assert waits[-1] >= 4 * AGAIN_AFTER_S


@pytest.mark.parametrize("newest", ["unhealthy", "never stored", "nobody"])
async def test_who_knows_nothing_requests_nothing(context: WorkerContext, arq: ArqRedis, newest: str) -> None:
    trades = await all_trades(context.rest, BTC)
    if newest != "never stored":
        await context.store.write(trades[:-10])
    if newest != "nobody":
        await receive(arq, trades, healthy=newest != "unhealthy")
    watch = TailWatch(context, arq)

    assert [await watch.look() for _ in range(3)] == [0, 0, 0]


async def test_the_bound_of_the_contract(context: WorkerContext) -> None:
    # docs/contract.md promises that the request is made within 10 s: a sign of life, and two looks.
    from kraken_history.runtime.liveness import BEAT_EVERY_S

    assert BEAT_EVERY_S + 2 * jobs.tails.LOOK_EVERY_S <= 10
    assert BEAT_LASTS_S > BEAT_EVERY_S + 2 * jobs.tails.LOOK_EVERY_S
