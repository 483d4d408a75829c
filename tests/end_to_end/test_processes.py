"""What the processes share: running until told to stop, and signs of life."""

import asyncio
import re
from contextlib import suppress

import asyncpg
import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError

from kraken_history.database.connections import create_pool, leaving_in_time
from kraken_history.database.failures import UNAVAILABLE
from kraken_history.runtime.liveness import BEAT_LASTS_S, HEALTH_PREFIX, beat, name_of, signs_of_life
from kraken_history.runtime.processes import finish_in_time, run_until
from kraken_history.runtime.signs import ConsumerSign, ProducerSign, WorkerSign, encode_sign
from tests.support.proxy import Proxy
from tests.support.signs import CONSUMER, PRODUCER, WORKER, sign
from tests.support.waiting import until


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
        written = sign(PRODUCER, healthy=False, sessions=3)
        task = asyncio.create_task(beat(redis, "host", lambda: written))
        await until(lambda: is_anybody_alive(redis))
        alive = await signs_of_life(redis)
        (key,) = await redis.keys()
        left_s = await redis.ttl(key)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        (sign_of_life,) = alive.of(ProducerSign)
        assert sign_of_life == sign(written, clock_ahead_s={"redis": sign_of_life.clock_ahead_s["redis"]})
        assert re.fullmatch(rb"kraken:health:producer:host~[0-9a-f]{8}", key)
        assert list(alive.by_name) == ["producer:host"]
        assert 0 < left_s <= BEAT_LASTS_S
        assert not await is_anybody_alive(redis)


async def test_services_with_equal_names_do_not_overwrite_each_others_signs() -> None:
    # Two producers on cloned machines shared a key: one was seen, and a dead one was not missed.
    async with FakeAsyncRedis() as redis:
        first, second = sign(PRODUCER, pid=1), sign(PRODUCER, pid=1, healthy=False)
        tasks = [
            asyncio.create_task(beat(redis, "clone", lambda: first)),
            asyncio.create_task(beat(redis, "clone", lambda: second)),
        ]
        await until(lambda: has_signs(redis, 2))
        both = await signs_of_life(redis)
        tasks[1].cancel()
        await asyncio.gather(tasks[1], return_exceptions=True)
        one = await signs_of_life(redis)
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)

        assert {name_of(name) for name in both.by_name} == {"producer:clone"}
        assert sorted(each.healthy for each in both.of(ProducerSign)) == [False, True]
        assert both.ages_s.keys() == both.by_name.keys()
        assert {name: each.healthy for name, each in one.by_name.items()} == {"producer:clone": True}
        assert not await redis.keys()


async def has_signs(redis: Redis, number: int) -> bool:
    return len((await signs_of_life(redis)).by_name) == number


async def is_anybody_alive(redis: Redis) -> bool:
    return bool((await signs_of_life(redis)).by_name)


async def test_all_signs_come_with_one_mget_and_no_entry_keeps_the_others_from_being_read(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis:
        bodies = {f"{HEALTH_PREFIX}worker:{n:02}".encode(): encode_sign(WORKER) for n in range(50)}
        bodies |= {b"kraken:health:worker:99": b"\xff", b"kraken:health:consumer:\xff": encode_sign(CONSUMER)}
        await redis.mset(bodies)
        await redis.xadd(f"{HEALTH_PREFIX}worker:stream", {"not": "a string"})
        await redis.config_resetstat()
        signs = await signs_of_life(redis)
        calls = await redis.info("commandstats")

    assert [*signs.of(WorkerSign)] == [WORKER] * 50
    assert [*signs.of(ConsumerSign)] == [CONSUMER]
    assert signs.unreadable.keys() == {"worker:99"}
    assert calls["cmdstat_mget"]["calls"] == calls["cmdstat_scan"]["calls"] == 1
    assert "cmdstat_get" not in calls


async def test_a_redis_that_is_away_does_not_stop_the_heart(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kraken_history.runtime.liveness.BEAT_EVERY_S", 0.02)
    asked = 0

    def look() -> WorkerSign:
        nonlocal asked
        asked += 1
        return WORKER

    async with Proxy(redis_url) as proxy, Redis.from_url(proxy.url) as through, Redis.from_url(redis_url) as redis:
        await proxy.cut()
        task = asyncio.create_task(beat(through, "host", look))
        await until(lambda: asked >= 3)
        assert not await is_anybody_alive(redis)
        await proxy.restore()
        await until(lambda: is_anybody_alive(redis))
        task.cancel()


async def test_what_ends_by_itself_when_told_to_stop_is_let_end() -> None:
    stop, finished = asyncio.Event(), asyncio.Event()

    async def finish() -> None:
        await stop.wait()
        await asyncio.sleep(0.02)
        finished.set()

    asyncio.get_running_loop().call_later(0.01, stop.set)
    await finish_in_time(finish(), stop)

    assert finished.is_set()


async def test_what_does_not_end_when_told_to_stop_is_cancelled() -> None:
    cancelled: list[str] = []
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, stop.set)
    await finish_in_time(for_ever(cancelled, "a"), stop, within_s=0.01)

    assert cancelled == ["a"]


@pytest.mark.parametrize("error", [NoConnection(), asyncpg.InterfaceError("pool is closed"), TimeoutError()])
async def test_a_server_that_is_away_is_no_failure_of_what_is_to_end(error: Exception) -> None:
    stop = asyncio.Event()

    async def fail_when_told_to_stop() -> None:
        await stop.wait()
        raise error

    asyncio.get_running_loop().call_later(0.01, stop.set)
    await finish_in_time(fail_when_told_to_stop(), stop, outages=(RedisError, *UNAVAILABLE))

    async def fail_at_once() -> None:
        raise error

    with pytest.raises(type(error)):
        await finish_in_time(fail_at_once(), asyncio.Event())


async def test_a_bug_is_a_failure_of_what_is_to_end_too() -> None:
    stop = asyncio.Event()
    stop.set()

    with pytest.raises(ZeroDivisionError):
        await finish_in_time(fail(), stop)


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_database_that_fell_silent_keeps_nobody_who_leaves(database_url: str) -> None:
    # The worker waited for its connections without a bound, the consumer for 80 s.
    stop = asyncio.Event()
    async with Proxy(database_url) as proxy:
        pool = await create_pool(proxy.url, min_size=1, max_size=1)
        async with asyncio.timeout(4), leaving_in_time(pool, stop, within_s=0.1):
            await pool.fetchval("SELECT 1")
            proxy.silence()
            asking = asyncio.create_task(pool.fetchval("SELECT 2"))
            await asyncio.sleep(0)
            stop.set()
            with suppress(asyncpg.PostgresConnectionError, asyncpg.InterfaceError):
                await asking

        assert pool.is_closing()
