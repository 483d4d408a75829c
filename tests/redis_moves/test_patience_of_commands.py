"""Commands wait for a Redis that is away, for a limited time."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from kraken_history.cli.redis_away import LimitedPatience
from kraken_history.errors import ServiceUnavailable, UsageError
from kraken_history.fetching.queue import JobQueue, queue_on
from kraken_history.runtime.liveness import signs_of_life
from kraken_history.runtime.redis_access import connect_redis
from kraken_history.runtime.redis_connections import RedisIsAway
from tests.support.proxy import Proxy


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis_url) as proxy:
        yield proxy


def patience(within_s: float) -> tuple[LimitedPatience, list[str]]:
    said: list[str] = []
    return LimitedPatience(within_s, said.append), said


async def restore_later(proxy: Proxy) -> None:
    await asyncio.sleep(0.6)
    await proxy.restore()


async def test_a_command_waits_for_redis_before_it_begins(proxy: Proxy) -> None:
    waits, said = patience(20)
    await proxy.cut()
    restoring = asyncio.create_task(restore_later(proxy))
    async with await connect_redis(proxy.url, retry=waits) as redis:
        assert not (await signs_of_life(redis)).by_name
    await restoring
    assert said == ["Redis does not answer: waiting for at most 20 s\n"]


async def test_a_command_goes_on_where_it_was_when_redis_went_away(proxy: Proxy) -> None:
    waits, said = patience(20)
    async with await connect_redis(proxy.url, retry=waits) as redis:
        jobs = JobQueue(queue_on(redis))
        assert await jobs.fill_gaps(["BTC/USDT"]) == 1
        await proxy.cut()
        restoring = asyncio.create_task(restore_later(proxy))
        assert await jobs.fill_gaps(["BTC/USDT", "ETH/USDT"]) == 1
        await restoring
    assert len(said) == 1


async def test_a_command_gives_up_in_one_line_once_its_time_has_passed(proxy: Proxy) -> None:
    waits, said = patience(0.6)
    await proxy.cut()
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable, match="no Redis answers"):
        await connect_redis(proxy.url, retry=waits)

    assert 0.6 <= time.monotonic() - began < 5
    assert len(said) == 1


async def test_nobody_waits_for_a_wrong_password(redis_url: str) -> None:
    waits, said = patience(60)
    with pytest.raises(UsageError, match="password"):
        await connect_redis(redis_url.replace("//:", "//:not-"), retry=waits)
    assert not said


async def test_a_server_that_was_demoted_is_left_for_the_new_one(proxy: Proxy) -> None:
    waits, said = patience(5)
    answers = iter([RedisIsAway("READONLY"), RedisIsAway("READONLY"), None])

    async def write() -> str:
        if (error := next(answers)) is not None:
            raise error
        return "OK"

    async def fail(_: Exception) -> None:
        pass

    assert await waits.call_with_retry(write, fail) == "OK"
    assert len(said) == 1
