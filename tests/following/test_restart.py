"""A database that is restarted under its followers."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import migrate
from kraken_history.embedded import Servers
from kraken_history.reading.following import follow_candles
from kraken_history.records import MINUTE
from kraken_history.storing.store import Store
from tests.support.examples import NOON, make_trade
from tests.support.followed import QUICK, Following, Watched
from tests.support.waiting import until


@pytest.fixture
def servers(tmp_path: Path, embedded_servers: Servers) -> Iterator[Servers]:
    """Servers of one's own, running; the shared ones stay as they are."""
    servers = Servers(tmp_path / "data", durable=False)
    servers.start()
    yield servers
    servers.stop()


async def test_a_restart_loses_and_repeats_nothing(servers: Servers) -> None:
    await migrate(servers.database_url)
    trades = [make_trade(n, NOON + n * timedelta(seconds=20)) for n in range(31)]
    database = Watched(servers.database_url, 1, 4)
    await database.open()
    followers = [Following(follow_candles(database, ["BTC/USDT"], 1, NOON, QUICK)) for _ in range(3)]
    async with followers[0], followers[1], followers[2]:
        async with await create_pool(servers.database_url, min_size=1, max_size=1) as pool:
            await Store(pool).write(trades[:14])
            await until(lambda: len(followers[0].seen) >= 2)
        await asyncio.to_thread(servers.stop)
        failed = database.failed
        await until(lambda: database.failed >= failed + 6)  # each has looked at a database that is away
        await asyncio.to_thread(servers.start)
        async with await create_pool(servers.database_url, min_size=1, max_size=1) as pool:
            for trade in trades[14:]:
                await Store(pool).write([trade])
        await until(lambda: all(len(follower.seen) >= 10 for follower in followers))
    await database.close()

    assert all(follower.opened == [("BTC/USDT", NOON + n * MINUTE) for n in range(10)] for follower in followers)
    assert all(candle.trade_count == 3 for follower in followers for candle in follower.seen)
