"""Anything may die at any moment: in the end the database holds what the exchange has said."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from redis.asyncio import Redis

from kraken_history.completeness.holes import find_holes
from kraken_history.database.connections import create_pool
from kraken_history.records import HistoricalTrade, floor_minute, utc_from_unix_ns
from kraken_history.storing.candle_deltas import build_candles
from tests.support.database import stored_candles, stored_trades
from tests.support.services import CONSUMER, PRODUCER, SIMULATOR, WORKER, Service, simulator_urls
from tests.support.streams import pending
from tests.support.waiting import until

SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
CLOCK_SLACK = timedelta(microseconds=2)


class Exchange:
    """The simulator, asked over HTTP."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def post(self, path: str) -> Any:
        async with self._http.post(self._url + path) as response:
            assert response.status == 200
            return await response.json()

    async def get(self, path: str, **parameters: str) -> Any:
        async with self._http.get(self._url + path, params=parameters) as response:
            assert response.status == 200
            return await response.json()

    async def emitted(self) -> int:
        return int((await self.get("/control/state"))["emitted"])

    async def has_emitted(self, count: int) -> bool:
        return await self.emitted() >= count

    async def is_listened_to(self) -> bool:
        return bool((await self.get("/control/state"))["clients"])

    async def trades_from(self, symbol: str, id_: int) -> list[HistoricalTrade]:
        """The truth, from an id on."""
        page = await self.get("/truth/trades", symbol=symbol, from_id=str(id_))
        assert page["next_id"] is None
        return [
            HistoricalTrade(
                row["id"],
                symbol,
                utc_from_unix_ns(row["time_ns"]),
                Decimal(row["price"]),
                Decimal(row["volume"]),
                row["side"],
                row["order_type"],
            )
            for row in page["trades"]
        ]


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
        yield pool


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as redis:
        yield redis


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Service]:
    arguments = ["--port", "0", "--rate", "400", "--symbols", ",".join(SYMBOLS), "--rest-burst", "1000000"]
    with Service([*SIMULATOR, *arguments, "--history", "400"], tmp_path / "simulator.log", {}) as service:
        yield service


async def newest_ids(pool: asyncpg.Pool) -> dict[str, int]:
    return {row[0]: row[1] for row in await pool.fetch("SELECT symbol, max(id) FROM trades GROUP BY symbol")}


async def every_symbol_moves_on(pool: asyncpg.Pool) -> None:
    """Wait until each symbol has trades that are newer than now's newest."""
    before = await newest_ids(pool)

    async def have_moved() -> bool:
        now = await newest_ids(pool)
        return all(now.get(symbol, 0) > before.get(symbol, 0) for symbol in SYMBOLS)

    await until(have_moved)


def comparable(trades: list[HistoricalTrade]) -> list[tuple[object, ...]]:
    return [(t.id, t.price, t.volume, t.side, t.order_type) for t in trades]


async def test_whatever_dies_in_the_end_the_database_holds_every_trade_once(
    simulator: Service, pool: asyncpg.Pool, migrated_database_url: str, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    await until(lambda: simulator_urls(simulator.output))
    urls = simulator_urls(simulator.output)
    assert urls is not None
    environment = {
        "DATABASE_URL": migrated_database_url,
        "REDIS_URL": redis_url,
        "KRAKEN_WS_URL": urls[0],
        "KRAKEN_REST_URL": urls[1],
        "SYMBOLS": ",".join(SYMBOLS),
        "REST_CALL_SPACING_S": "0.01",
        "REST_TOTAL_SPACING_S": "0.01",
        "HEAL_DELAY_S": "0.1",
        "RECLAIM_AFTER_S": "1",
    }
    with ExitStack() as stack:

        def start(name: str, arguments: tuple[str, ...]) -> Service:
            log = tmp_path / f"{name}.log"
            return stack.enter_context(Service(arguments, log, environment | {"CONSUMER_NAME": name}))

        producer, worker = start("producer", PRODUCER), start("worker", WORKER)
        one, two = start("one", CONSUMER), start("two", CONSUMER)
        async with aiohttp.ClientSession() as http:
            exchange = Exchange(http, urls[1])
            await every_symbol_moves_on(pool)

            one.kill()
            await every_symbol_moves_on(pool)
            one.start()
            two.kill()
            await every_symbol_moves_on(pool)
            two.start()

            producer.kill()
            missed = await exchange.emitted() + 400  # more than the snapshots of a new connection make up for
            await until(lambda: exchange.has_emitted(missed))
            producer.start()
            await until(exchange.is_listened_to)
            await every_symbol_moves_on(pool)

            assert (await exchange.post("/control/disconnect"))["disconnected"] == 1
            await every_symbol_moves_on(pool)

            worker.kill()
            await redis.flushall()
            worker.start()
            await every_symbol_moves_on(pool)

            await exchange.post("/control/stop")
            truth = await exchange.get("/truth")
            last_ids = {symbol: truth[symbol]["last_id"] for symbol in SYMBOLS}
            await until(lambda: is_complete(pool, last_ids))
            await expect_the_truth(pool, exchange)

        await until(lambda: nothing_is_pending(redis))
        assert [service.terminate() for service in (producer, one, two)] == [0, 0, 0]
        for service in (producer, one, two, worker):
            assert "Traceback" not in service.output
        # By healing or by filling a gap; else nothing of this was put to the test.
        assert re.search(r'"stored": [1-9]', worker.output)


async def nothing_is_pending(redis: Redis) -> bool:
    return await pending(redis) == 0


async def is_complete(pool: asyncpg.Pool, last_ids: dict[str, int]) -> bool:
    return await newest_ids(pool) == last_ids and await find_holes(pool) == {}


async def expect_the_truth(pool: asyncpg.Pool, exchange: Exchange) -> None:
    stored = await stored_trades(pool)
    candles = await stored_candles(pool)
    for symbol in SYMBOLS:
        ours = [trade for trade in stored if trade.symbol == symbol]
        truth = await exchange.trades_from(symbol, ours[0].id)
        assert comparable(ours) == comparable(truth)
        assert all(abs(a.timestamp - b.timestamp) <= CLOCK_SLACK for a, b in zip(ours, truth, strict=True))
        # The first minute began before us, so there the exchange's own candle is the fuller one.
        first: datetime = floor_minute(ours[0].timestamp)
        built = [candle for candle in build_candles(ours) if candle.timestamp > first]
        assert [c for c in candles if c.symbol == symbol and c.timestamp > first] == built
