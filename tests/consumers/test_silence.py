"""The consumer as a service, on a network whose connections went silent while new ones are as good as ever."""

import asyncio

import asyncpg
import pytest
from redis.asyncio import Redis

from consumers.__main__ import consume
from kraken_history.runtime import redis_connections
from kraken_history.runtime.liveness import signs_of_life
from kraken_history.runtime.signs import ConsumerSign
from kraken_history.settings import Settings
from tests.support.database import stored_ids
from tests.support.proxy import Proxy
from tests.support.records import trade, trades
from tests.support.streams import is_settled, publish
from tests.support.waiting import until


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_consumer_whose_connections_to_redis_fell_silent_goes_on_with_new_ones(
    pool: asyncpg.Pool,
    migrated_database_url: str,
    redis: Redis,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One of them had no bound: with the first hole after it fell silent, the consumer stored nothing any more, and
    # told of itself that it was well.
    monkeypatch.setitem(redis_connections.REDIS_TIMEOUTS, "socket_timeout", 1.0)
    stop = asyncio.Event()
    async with Proxy(redis_url) as proxy:
        settings = Settings(database_url=migrated_database_url, redis_url=proxy.url, heal_delay_s=0.01)
        consuming = asyncio.create_task(consume(settings, stop))
        await publish(redis, trades([1, 2, 5]))
        await until(lambda: has_jobs(redis, 1))
        proxy.silence_what_is_open()
        await publish(redis, [trade(20_000)])
        await until(lambda: is_settled(redis), timeout_s=10)
        await publish(redis, [trade(40_000)])
        await until(lambda: is_settled(redis), timeout_s=10)
        await until(lambda: is_well(redis), timeout_s=10)
        await until(lambda: has_jobs(redis, 2), timeout_s=10)
        stop.set()
        await asyncio.wait_for(consuming, 10)

    assert await stored_ids(pool) == [1, 2, 5, 20_000, 40_000]


async def has_jobs(redis: Redis, least: int) -> bool:
    return int(await redis.zcard("kraken:jobs")) >= least


async def is_well(redis: Redis) -> bool:
    return any(sign.healthy for sign in (await signs_of_life(redis)).of(ConsumerSign))
