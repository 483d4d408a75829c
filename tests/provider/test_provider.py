"""Reading through :class:`HistoricalDataProvider`."""

import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest

from kraken_history.errors import SchemaMismatch, ServiceUnavailable, UnknownSymbol, UsageError
from kraken_history.intervals import VIEWS
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalTrade
from kraken_history.storing.store import Store

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)


def trade(id_: int, timestamp: datetime, symbol: str = "BTC/USDT") -> HistoricalTrade:
    return HistoricalTrade(id_, symbol, timestamp, Decimal(f"{id_}.50"), Decimal("2.0"), "sell", "market")


@pytest.fixture
async def provider(migrated_database_url: str) -> AsyncIterator[HistoricalDataProvider]:
    """A trade in each hour of two days, with ids from 1; 7 is missing."""
    trades = [trade(n, MONDAY + (n - 1) * HOUR) for n in range(1, 49) if n != 7]
    async with asyncpg.create_pool(migrated_database_url, min_size=1, max_size=1) as pool:
        await Store(pool).write([*trades, trade(5, MONDAY, "ETH/USDT")])
    async with HistoricalDataProvider(migrated_database_url) as provider:
        yield provider


async def test_start_is_included_and_end_is_not(provider: HistoricalDataProvider) -> None:
    candles = await provider.get_candles("BTC/USDT", 1, MONDAY + HOUR, MONDAY + 3 * HOUR, gaps="ignore")

    assert [candle.timestamp for candle in candles] == [MONDAY + HOUR, MONDAY + 2 * HOUR]
    assert str(candles[0].open) == "2.5"  # whatever the stored row has
    assert candles[0].quote_volume == Decimal("5.000")


async def test_a_limit_keeps_the_oldest(provider: HistoricalDataProvider) -> None:
    candles = await provider.get_candles("BTC/USDT", 60, MONDAY, MONDAY + 9 * HOUR, limit=2, gaps="ignore")

    assert [candle.timestamp for candle in candles] == [MONDAY, MONDAY + HOUR]


@pytest.mark.parametrize("interval", VIEWS)
async def test_every_interval_holds_all_trades(interval: int, provider: HistoricalDataProvider) -> None:
    candles = await provider.get_candles("BTC/USDT", interval, MONDAY, MONDAY + 7 * 24 * HOUR, gaps="ignore")

    assert sum(candle.trade_count for candle in candles) == 47
    assert {candle.interval_minutes for candle in candles} == {interval}
    assert [candle.timestamp for candle in candles] == sorted(candle.timestamp for candle in candles)


async def test_the_latest_come_oldest_first(provider: HistoricalDataProvider) -> None:
    latest = await provider.get_latest_candles("BTC/USDT", 60, 2)
    before = await provider.get_latest_candles("BTC/USDT", 60, 2, end=latest[0].timestamp)

    assert [candle.close for candle in latest] == [Decimal("47.5"), Decimal("48.5")]
    assert [candle.close for candle in before] == [Decimal("45.5"), Decimal("46.5")]


async def test_the_symbols_and_their_status(provider: HistoricalDataProvider) -> None:
    status = await provider.get_sync_status("BTC/USDT")

    assert await provider.get_symbols() == ["BTC/USDT", "ETH/USDT"]
    assert await provider.get_sync_status("SOL/USDT") is None
    assert status is not None
    assert (status.total_trades, status.missing_trades, status.total_candles) == (47, 1, 47)
    assert (status.oldest_timestamp, status.newest_timestamp) == (MONDAY, MONDAY + 47 * HOUR)


async def test_a_known_symbol_without_candles_in_the_range_is_empty(provider: HistoricalDataProvider) -> None:
    assert await provider.get_candles("ETH/USDT", 1, MONDAY + HOUR, MONDAY + 2 * HOUR, gaps="ignore") == []


async def test_what_cannot_be_answered_is_refused(provider: HistoricalDataProvider) -> None:
    naive = MONDAY.replace(tzinfo=None)
    with pytest.raises(UnknownSymbol, match="expected one of BTC/USDT, ETH/USDT"):
        await provider.get_candles("DOGE/USDT", 1, MONDAY, MONDAY + HOUR, gaps="ignore")
    with pytest.raises(UsageError, match="whole number of minutes from 1"):
        await provider.get_latest_candles("BTC/USDT", 0, 1)
    with pytest.raises(UsageError, match="expected a timezone-aware datetime"):
        await provider.get_candles("BTC/USDT", 1, naive, MONDAY, gaps="ignore")
    with pytest.raises(UsageError, match="must be before end"):
        await provider.get_candles("BTC/USDT", 1, MONDAY, MONDAY, gaps="ignore")
    with pytest.raises(UsageError, match="at least 1"):
        await provider.get_latest_candles("BTC/USDT", 1, 0)


async def test_a_database_without_a_schema_is_told(database_url: str) -> None:
    with pytest.raises(SchemaMismatch, match="kraken-history migrate"):
        async with HistoricalDataProvider(database_url):
            pass


async def test_a_database_that_is_down_is_told() -> None:
    with pytest.raises(ServiceUnavailable, match=r"no database answers at 127.0.0.1:1/x"):
        async with HistoricalDataProvider("postgresql://me:secret@127.0.0.1:1/x"):
            pass


def test_reading_needs_asyncpg_and_msgspec_only() -> None:
    blocked = ("redis", "arq", "aiohttp", "pydantic", "structlog", "prometheus_client", "typer", "rich", "platformdirs")
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); import kraken_history.provider"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
