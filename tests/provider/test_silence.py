"""A network that went silent: nothing is refused, and nothing answers."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from kraken_history.postgres import create_pool
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.status import LONGEST_ANSWER_S
from kraken_history.records import HistoricalTrade
from kraken_history.store import Store
from tests.thread.proxy import Proxy

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


async def test_a_callers_own_timeout_is_kept_and_health_is_told(migrated_database_url: str) -> None:
    async with await create_pool(migrated_database_url, min_size=1, max_size=1) as pool:
        await Store(pool).write([HistoricalTrade(1, "BTC/USDT", MONDAY, Decimal("1.5"), Decimal(2), "sell", "market")])
    async with Proxy(migrated_database_url) as proxy:
        provider = HistoricalDataProvider(proxy.url, 1, 2)
        await provider.connect()
        assert len(await provider.get_candles("BTC/USDT", 1, MONDAY, MONDAY + timedelta(hours=1))) == 1

        proxy.silence()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await provider.get_candles("BTC/USDT", 1, MONDAY, MONDAY + timedelta(hours=1))
        left_after_s = time.monotonic() - started
        health = await provider.health_check()

    assert left_after_s < 3
    assert not health.is_healthy
    assert f"within {LONGEST_ANSWER_S:g} s" in health.reason
    assert health.latency_s < LONGEST_ANSWER_S + 5
    await provider.close()


@pytest.mark.parametrize(("least", "most"), [(5, 2), (0, 1), (2, 1)])
async def test_a_pool_is_never_larger_at_least_than_at_most(least: int, most: int, migrated_database_url: str) -> None:
    async with HistoricalDataProvider(migrated_database_url, least, most) as provider:
        assert await provider.get_symbols() == []
