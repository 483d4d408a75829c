"""What the processes share: running until told to stop, and signs of life."""

import asyncio
import os

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from kraken_history.processes import run_until
from kraken_history.telemetry import BEAT_LASTS_S, beat, signs_of_life
from tests.thread.proxy import Proxy
from tests.thread.waiting import until


async def for_ever(cancelled: list[str], name: str) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        cancelled.append(name)
        raise


async def fail() -> None:
    raise ZeroDivisionError


async def test_told_to_stop_everything_is_cancelled() -> None:
    cancelled: list[str] = []
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, stop.set)
    await run_until(stop, for_ever(cancelled, "a"), for_ever(cancelled, "b"))

    assert sorted(cancelled) == ["a", "b"]


async def test_the_first_failure_ends_the_others_and_is_raised() -> None:
    cancelled: list[str] = []
    with pytest.raises(ZeroDivisionError):
        await run_until(asyncio.Event(), for_ever(cancelled, "a"), fail())

    assert cancelled == ["a"]


async def test_a_service_leaves_a_sign_of_life_that_fades() -> None:
    async with FakeAsyncRedis() as redis:
        task = asyncio.create_task(beat(redis, "producer", "host", lambda: {"healthy": False, "sessions": 3}))
        await until(lambda: signs_of_life(redis))
        task.cancel()
        alive = await signs_of_life(redis)
        (key,) = await redis.keys()

        assert alive["producer:host"] | {"at": ""} == {"pid": os.getpid(), "at": "", "healthy": False, "sessions": 3}
        assert 0 < await redis.ttl(key) <= BEAT_LASTS_S


async def test_a_redis_that_is_away_does_not_stop_the_heart(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kraken_history.telemetry.BEAT_EVERY_S", 0.02)
    asked = 0

    def facts() -> dict[str, object]:
        nonlocal asked
        asked += 1
        return {}

    async with Proxy(redis_url) as proxy, Redis.from_url(proxy.url) as through, Redis.from_url(redis_url) as redis:
        await proxy.cut()
        task = asyncio.create_task(beat(through, "worker", "host", facts))
        await until(lambda: asked >= 3)
        assert await signs_of_life(redis) == {}
        await proxy.restore()
        await until(lambda: signs_of_life(redis))
        task.cancel()
