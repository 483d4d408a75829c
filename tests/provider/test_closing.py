"""Reads that run while their provider is closed, and statements that the server gives up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import urlencode

import asyncpg
import pytest

from kraken_history.backtests import BacktestRun
from kraken_history.errors import ProviderClosed, ServiceUnavailable
from kraken_history.provider import HistoricalDataProvider
from tests.provider.test_silence import MONDAY
from tests.support.servers import DatabaseServer
from tests.support.waiting import until

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)

END = MONDAY + timedelta(hours=1)


class Lock:
    """Holds up all reads."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def holds_up(self, count: int) -> bool:
        """True if so many statements wait for it."""
        await self._connection.execute("SELECT pg_stat_clear_snapshot()")
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return bool(await self._connection.fetchval(query) == count)

    async def release(self) -> None:
        """Let them go on."""
        await self._connection.execute("ROLLBACK")


@asynccontextmanager
async def locked(database_url: str) -> AsyncIterator[Lock]:
    connection = await asyncpg.connect(database_url)
    await connection.execute("BEGIN; LOCK TABLE data_sync_status, candles, backtest_runs IN ACCESS EXCLUSIVE MODE")
    try:
        yield Lock(connection)
    finally:
        await connection.close()


@pytest.mark.parametrize("in_time", [True, False], ids=["ending", "held up"])
async def test_closing_lets_reads_end_or_says_that_it_was_closed(in_time: bool, migrated_database_url: str) -> None:
    provider = HistoricalDataProvider(migrated_database_url, 1, 2)
    await provider.connect()
    async with locked(migrated_database_url) as lock:
        reads = [asyncio.create_task(provider.get_symbols()) for _ in range(4)]
        await until(lambda: lock.holds_up(2))
        closing = asyncio.create_task(provider.close())
        if in_time:
            await asyncio.sleep(0)
            await lock.release()
        await closing
        found = await asyncio.gather(*reads, return_exceptions=True)

    assert found.count([]) == (2 if in_time else 0)
    assert all(isinstance(each, ProviderClosed) or each == [] for each in found)


async def test_closing_ends_reads_of_columns(migrated_database_url: str) -> None:
    # They have connections of their own, which closing the pool leaves alone.
    provider = HistoricalDataProvider(migrated_database_url, 1, 1)
    await provider.connect()
    async with locked(migrated_database_url) as lock:
        reading = asyncio.create_task(provider.get_candles_arrow("BTC/USDT", 1, MONDAY, END, gaps="ignore"))
        await until(lambda: lock.holds_up(1))
        async with asyncio.timeout(10):
            await provider.close()
            with pytest.raises(ProviderClosed):
                await reading
            await until(lambda: lock.holds_up(0))


async def test_closing_waits_for_what_connects(migrated_database_url: str) -> None:
    provider = HistoricalDataProvider(migrated_database_url, 1, 1)
    connecting = asyncio.create_task(provider.connect())
    await asyncio.sleep(0)
    await provider.close()
    await connecting

    with pytest.raises(ProviderClosed):
        await provider.get_symbols()


async def test_a_statement_that_the_server_gives_up_may_be_tried_again(migrated_database_url: str) -> None:
    url = f"{migrated_database_url}?{urlencode({'statement_timeout': 100})}"
    run = BacktestRun(
        strategy_name="any", symbols=("BTC/USDT",), start_time=MONDAY, end_time=END, parameters={}, metrics={}
    )
    async with HistoricalDataProvider(url, 1, 1) as provider, locked(migrated_database_url):
        for asked in (
            provider.get_candles("BTC/USDT", 1, MONDAY, END, gaps="ignore"),
            provider.get_candles_arrow("BTC/USDT", 1, MONDAY, END, gaps="ignore"),
            provider.save_run(run),
        ):
            with pytest.raises(ServiceUnavailable, match=r"did not complete .*statement timeout.*: try again"):
                await asked


async def test_a_database_that_is_dropped_is_unavailable(database_server: DatabaseServer) -> None:
    """The driver's own error came out of the reads, and of ``health_check``, which reports failures."""
    url = database_server.create_migrated_database()
    async with HistoricalDataProvider(url, pool_min_size=1, pool_max_size=1) as provider:
        assert await provider.get_symbols() == []
        database_server.drop_database(url)
        with pytest.raises(ServiceUnavailable):  # its connection is closed
            await provider.get_symbols()
        with pytest.raises(ServiceUnavailable, match="does not exist"):  # a new one is refused
            await provider.get_symbols()
        health = await provider.health_check()

    assert not health.is_healthy
    assert "does not exist" in health.reason
