"""A service leaves its sign of life while it runs, and takes it along when it stops."""

import asyncio
import time

from redis.asyncio import Redis

from kraken_history.runtime import liveness
from kraken_history.runtime.signs import encode_sign
from tests.support.signs import CONSUMER, PRODUCER, sign
from tests.support.waiting import until

KEY = f"{liveness.HEALTH_PREFIX}producer:a"


async def beating(redis: Redis) -> asyncio.Task[None]:
    """A service that has left its first sign."""
    task = asyncio.create_task(liveness.beat(redis, "a", lambda: PRODUCER))
    await until(lambda: has_keys(redis, 1))
    return task


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_service_that_stops_takes_its_sign_along(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis:
        await redis.set(f"{liveness.HEALTH_PREFIX}consumer:a", encode_sign(CONSUMER), ex=15)
        task = await beating(redis)

        await stop(task)

        assert task.cancelled()
        assert list((await liveness.signs_of_life(redis)).by_name) == ["consumer:a"]


async def test_the_sign_of_a_successor_stays(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis:
        former = await beating(redis)
        successor = asyncio.create_task(liveness.beat(redis, "a", lambda: sign(PRODUCER, pid=99)))
        await until(lambda: has_keys(redis, 2))

        await stop(former)

        assert [each.pid for each in (await liveness.signs_of_life(redis)).by_name.values()] == [99]
        await stop(successor)


async def has_keys(redis: Redis, number: int) -> bool:
    return len(await redis.keys(f"{KEY}~*")) == number


async def test_a_redis_that_is_away_does_not_delay_the_stop(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis, Redis.from_url(redis_url) as other:
        task = await beating(redis)
        await other.client_pause(timeout=4_000)
        began = time.monotonic()

        await stop(task)

        assert time.monotonic() - began < 3
        await other.client_unpause()
