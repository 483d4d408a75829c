"""A network that went silent: nothing is refused, and nothing answers."""

import asyncio
import gc
import socket
import sys
import time
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import pytest

from kraken_history.database.connections import CLOSE_TIMEOUT_S, create_pool
from kraken_history.errors import ProviderClosed
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.status import LONGEST_ANSWER_S
from kraken_history.records import HistoricalTrade
from kraken_history.storing.store import Store
from tests.support.proxy import Proxy
from tests.support.waiting import until

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


async def test_a_callers_own_timeout_is_kept_and_health_is_told(migrated_database_url: str) -> None:
    async with await create_pool(migrated_database_url, min_size=1, max_size=1) as pool:
        await Store(pool).write([HistoricalTrade(1, "BTC/USDT", MONDAY, Decimal("1.5"), Decimal(2), "sell", "market")])
    async with Proxy(migrated_database_url) as proxy:
        provider = HistoricalDataProvider(proxy.url, 1, 2)
        await provider.connect()
        assert len(await provider.get_candles("BTC/USDT", 1, MONDAY, MONDAY + timedelta(hours=1), gaps="ignore")) == 1

        proxy.silence()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await provider.get_candles("BTC/USDT", 1, MONDAY, MONDAY + timedelta(hours=1), gaps="ignore")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await provider.list_runs()
        left_after_s = time.monotonic() - started
        health = await provider.health_check()
        async with asyncio.timeout(CLOSE_TIMEOUT_S + 2):
            await provider.close()

    assert left_after_s < 3
    assert not health.is_healthy
    assert f"within {LONGEST_ANSWER_S:g} s" in health.reason
    assert health.latency_s < LONGEST_ANSWER_S + 5


async def test_closing_does_not_wait_for_a_network_that_went_silent(migrated_database_url: str) -> None:
    async with Proxy(migrated_database_url) as proxy:
        provider = HistoricalDataProvider(proxy.url, 1, 2)
        await provider.connect()
        following = provider.follow_candles("BTC/USDT", 1, poll_s=0.05)
        waiting = asyncio.create_task(anext(following))
        proxy.silence()
        reading = asyncio.create_task(provider.get_symbols())
        async with asyncio.timeout(CLOSE_TIMEOUT_S + 2):
            await provider.close()
        with pytest.raises(ProviderClosed):
            await reading
        async with asyncio.timeout(CLOSE_TIMEOUT_S + 2):
            waiting.cancel()
            await asyncio.wait([waiting])
            await following.aclose()


def silence_options(port: int) -> list[tuple[int, ...]]:
    """What the kernel was told for each of our connections to this port."""
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    found = []
    for link in [each for each in gc.get_objects() if isinstance(each, socket.socket)]:
        with suppress(OSError, IndexError):  # it is not connected, or to no port
            if link.getpeername()[1] == port and link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
                found.append(tuple(link.getsockopt(socket.IPPROTO_TCP, option) for option in options))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know some of the options only")
async def test_the_kernel_is_asked_to_end_connections_over_which_nothing_comes(migrated_database_url: str) -> None:
    """The proxy cannot show it: a silent one still acknowledges what it is sent."""
    async with Proxy(migrated_database_url) as proxy, HistoricalDataProvider(proxy.url, 1, 2) as provider:
        port = urlsplit(proxy.url).port or 0
        assert silence_options(port) == [(15, 5, 3, 30_000)]

        async with aclosing(provider.follow_candles("BTC/USDT", 1)) as following:
            waiting = asyncio.create_task(anext(following))
            await until(lambda: len(silence_options(port)) == 2)  # the one that listens has them too
            waiting.cancel()
            await asyncio.wait([waiting])


async def test_a_server_beside_the_program_is_reached_without_a_network(migrated_database_url: str) -> None:
    parts = urlsplit(migrated_database_url)

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            sink.write(data)
        sink.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(carry(reader, back), carry(there, writer))

    with TemporaryDirectory(dir="/tmp") as folder:  # the name of a socket must be short
        async with await asyncio.start_unix_server(accept, f"{folder}/.s.PGSQL.5432"):
            url = f"postgresql://{parts.username}:{parts.password}@{parts.path}?host={folder}&port=5432"
            async with HistoricalDataProvider(url, 1, 1) as provider:
                assert await provider.get_symbols() == []


@pytest.mark.parametrize(("least", "most"), [(5, 2), (0, 1), (2, 1)])
async def test_a_pool_is_never_larger_at_least_than_at_most(least: int, most: int, migrated_database_url: str) -> None:
    async with HistoricalDataProvider(migrated_database_url, least, most) as provider:
        assert await provider.get_symbols() == []
