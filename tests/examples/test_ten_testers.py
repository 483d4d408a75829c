"""Ten paper testers and more on one database, while the whole chain runs."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import asyncpg
import pytest

from kraken_history.completeness.holes import find_holes
from kraken_history.database.connections import create_pool
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import floor_minute, utc_from_unix_ns
from simulator import Simulator
from tests.examples.testers import PaperTester, saved_run
from tests.support.database import stored_candles
from tests.support.followed import Following
from tests.support.services import CONSUMER, PRODUCER, WORKER, Service
from tests.support.waiting import until

SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
SPEED = 30
"""Seconds of the exchange's clock in one of ours."""


class FastClock:
    """Unix time in nanoseconds, from the start of this minute on, at many times our pace.

    Trades are in our future then, so that only later ones close a candle, and no hole is given up.
    """

    def __init__(self) -> None:
        self.started_ns = time.time_ns() // (60 * 10**9) * 60 * 10**9
        self._started = time.monotonic_ns()

    def __call__(self) -> int:
        return self.started_ns + SPEED * (time.monotonic_ns() - self._started)


@pytest.fixture
async def exchange() -> AsyncIterator[Simulator]:
    simulator = Simulator(symbols=SYMBOLS, rate=300, seed=4, emitting=False, clock=FastClock(), rest_burst=1_000_000)
    async with simulator:
        yield simulator


@pytest.fixture
def chain(
    exchange: Simulator, migrated_database_url: str, redis_url: str, tmp_path: Path
) -> Iterator[dict[str, Service]]:
    """Producer, consumer and worker, as the Procfile starts them."""
    environment = {
        "DATABASE_URL": migrated_database_url,
        "REDIS_URL": redis_url,
        "KRAKEN_WS_URL": exchange.ws_url,
        "KRAKEN_REST_URL": exchange.rest_url,
        "SYMBOLS": ",".join(SYMBOLS),
        "REST_CALL_SPACING_S": "0.01",
        "REST_TOTAL_SPACING_S": "0.01",
        "HEAL_DELAY_S": "0.1",
    }
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Service(words, tmp_path / f"{name}.log", environment))
            for name, words in (("producer", PRODUCER), ("consumer", CONSUMER), ("worker", WORKER))
        }


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)
async def test_each_of_ten_testers_gets_every_closed_candle_once_and_as_it_is_stored(
    exchange: Simulator, chain: dict[str, Service], migrated_database_url: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """Through an outage of the producer's connection, which leaves holes for the worker to heal."""
    start = utc_from_unix_ns(exchange.exchange.now_ns())
    words = ("--symbols", ",".join(SYMBOLS))
    async with AsyncExitStack() as stack:
        processes = [
            stack.enter_context(PaperTester(tmp_path / f"{at}.log", migrated_database_url, *words, *more))
            for at, more in enumerate((["--no-gap-fill"], ["--kraken-rest-url", exchange.rest_url]))
        ]
        provider = await stack.enter_async_context(HistoricalDataProvider(migrated_database_url))
        followers = [
            await stack.enter_async_context(Following(provider.follow_candles(SYMBOLS, 1, start=start)))
            for _ in range(10)
        ]
        await until(lambda: all(process.is_following for process in processes))
        await until(lambda: is_heard(exchange))
        exchange.start_emitting()
        await until(lambda: all(len(follower.seen) >= 6 for follower in followers))
        exchange.hub.disconnect_all()
        exchange.emit(900)  # heard by nobody, and more than the snapshots of a new connection make up for
        before = len(followers[0].seen)
        await until(lambda: len(followers[0].seen) >= before + 6)
        exchange.stop_emitting()

        tapes = exchange.exchange.tapes
        await until(lambda: is_complete(pool, {symbol: tape.last_id for symbol, tape in tapes.items()}))
        closed = {
            symbol: [
                candle
                for candle in await stored_candles(pool)
                if candle.symbol == symbol
                and start <= candle.timestamp < floor_minute(utc_from_unix_ns(tapes[symbol].last_time_ns))
            ]
            for symbol in SYMBOLS
        }
        for symbol in SYMBOLS:
            for follower in followers:
                await until(lambda f=follower, of=symbol: len(f.of(of)) >= len(closed[of]))  # type: ignore[misc]
            for process in processes:
                last = f"{closed[symbol][-1].timestamp:%Y-%m-%d %H:%M}"
                await until(lambda p=process, of=symbol, at=last: at in dict(p.candles(of)))  # type: ignore[misc]
        codes = [await asyncio.to_thread(process.stop) for process in processes]

    assert min(map(len, closed.values())) >= 4
    for symbol in SYMBOLS:
        stored = [each for each in await stored_candles(pool) if each.symbol == symbol]
        table = [each for each in stored if each.timestamp >= start]
        printed = [(f"{candle.timestamp:%Y-%m-%d %H:%M}", f"{candle.close.normalize():f}") for candle in stored]
        for follower in followers:
            seen = follower.of(symbol)
            assert seen == table[: len(seen)]
        for process in processes:
            lines = process.candles(symbol)
            first = printed.index(lines[0])  # the one that ran when it began
            assert len(lines) >= 4
            assert lines == printed[first : first + len(lines)]
    # By healing or by filling a gap; else nothing of this was put to the test.
    assert re.search(r'"stored": [1-9]', chain["worker"].output)
    assert codes == [0, 0]
    assert await pool.fetchval("SELECT count(*) FROM backtest_runs") == 2
    assert all(saved_run(process.output) for process in processes)


def is_heard(exchange: Simulator) -> bool:
    """True if no trade can be missed: what comes before a subscription and its snapshot, no follower waits for."""
    subscriptions = [each for client in exchange.hub.clients for each in client.session.subscriptions]
    return {each.symbol for each in subscriptions if each.channel == "trade"} == set(SYMBOLS)


async def is_complete(pool: asyncpg.Pool, newest: dict[str, int | None]) -> bool:
    rows = await pool.fetch("SELECT symbol, highest_id FROM data_sync_status WHERE data_type = 'trades'")
    return {row[0]: row[1] for row in rows} == newest and await find_holes(pool) == {}
