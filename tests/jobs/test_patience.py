"""The worker's Redis: a command waits for an answer, but not for a connection that will never bring one."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from jobs.patience import Patience, PatientRedis
from kraken_history.runtime import redis_connections
from tests.support.proxy import Proxy
from tests.support.waiting import until

ANSWER_S = 0.3


@pytest.fixture
async def proxy(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    """Before a Redis that is taken for dead after a third of a second."""
    monkeypatch.setitem(redis_connections.REDIS_TIMEOUTS, "socket_timeout", ANSWER_S)
    monkeypatch.setattr(Patience, "lasts_as_long_as", None)
    async with Proxy(redis_url) as proxy:
        yield proxy


async def test_a_connection_that_fell_silent_is_given_up_for_another(proxy: Proxy) -> None:
    # arq's own connections wait without a bound: the worker did nothing any more until it was restarted.
    async with PatientRedis.at(proxy.url) as redis:
        await redis.set("a", 1)
        proxy.silence_what_is_open()
        async with asyncio.timeout(10):
            assert await redis.get("a") == b"1"


async def test_a_redis_that_says_nothing_is_waited_for(proxy: Proxy) -> None:
    # It takes connections meanwhile, which is no answer.
    async with PatientRedis.at(proxy.url) as redis:
        proxy.silence()
        with capture_logs() as logs:
            asking = [asyncio.ensure_future(redis.set(key, 1)) for key in "ab"]
            await until(lambda: proxy.connections >= 6)  # each was given up, and tried again on another
            assert not any(task.done() for task in asking)
            assert [log["event"] for log in logs] == ["waiting"]
            await proxy.cut()
            await proxy.restore()
            async with asyncio.timeout(10):
                assert await asyncio.gather(*asking) == [True, True]

    assert [log["event"] for log in logs] == ["waiting", "going_on"]


@pytest.mark.parametrize("is_silent", [False, True])
async def test_nobody_waits_once_the_worker_is_stopping(proxy: Proxy, is_silent: bool) -> None:
    async with PatientRedis.at(proxy.url) as redis:
        await redis.set("a", 1)
        if is_silent:
            proxy.silence()
        else:
            await proxy.cut()
        worker = asyncio.create_task(asyncio.sleep(0))
        await worker
        Patience.lasts_as_long_as = worker

        async with asyncio.timeout(10):
            with pytest.raises((RedisError, OSError)):
                await redis.get("a")
            assert await redis.delete("a") == 0  # arq's last word, which ended in a traceback
