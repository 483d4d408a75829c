"""Connections to Redis: cancelled at whatever moment, a command is cancelled."""

import asyncio

import pytest
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoAnswer

from kraken_history.runtime import redis_connections
from kraken_history.runtime.processes import connect_redis
from kraken_history.runtime.redis_connections import pool_at
from tests.support.proxy import Proxy


async def test_no_cancellation_is_lost_at_any_step_of_a_command(redis_url: str) -> None:
    # A cancellation that came in the same turn of the loop as the end of sending was forgotten: of 56 workers that
    # were told to stop while they were busy, 21 had to be told again.
    async with await connect_redis(redis_url) as redis:
        for steps in range(100):
            await redis.ping()
            asking = asyncio.ensure_future(redis.ping())
            for _ in range(steps):
                await asyncio.sleep(0)
            if asking.done():
                break
            asking.cancel()
            await asyncio.wait([asking])

            assert asking.cancelled(), f"lost after {steps} steps"
        assert steps > 3


async def test_a_server_that_takes_nothing_more_is_noticed(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(redis_connections.REDIS_TIMEOUTS, "socket_timeout", 0.3)
    async with Proxy(redis_url) as proxy, await connect_redis(proxy.url) as redis:
        proxy.silence()
        with pytest.raises(NoAnswer, match="timed out while sending to Redis"):
            await redis.set("a", b"x" * 50_000_000)


async def test_a_server_that_goes_away_is_noticed(redis_url: str) -> None:
    async with Proxy(redis_url) as proxy, await connect_redis(proxy.url) as redis:
        await proxy.cut()
        with pytest.raises(NoConnection):
            await redis.ping()


@pytest.mark.parametrize("url", ["redis://h/0", "rediss://h/0", "unix:///tmp/redis.sock"])
async def test_every_kind_of_url_has_them(url: str) -> None:
    pool = pool_at(url, ConnectionPool)

    assert pool.connection_class.__module__ == redis_connections.__name__
    assert f"{Redis(connection_pool=pool).connection_pool.make_connection()!r}"  # type: ignore[no-untyped-call]
