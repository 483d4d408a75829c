"""A primary that dies, a standby that takes its place, and what a service and a reader make of both."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis

from consumers.__main__ import consume
from kraken_history.database import watching
from kraken_history.database.connections import create_pool
from kraken_history.provider import HistoricalDataProvider
from kraken_history.runtime.liveness import signs_of_life
from kraken_history.runtime.signs import ConsumerSign
from kraken_history.settings import Settings
from kraken_history.storing.store import Store
from tests.support.command import Run
from tests.support.database import stored_ids
from tests.support.followed import take
from tests.support.records import NOON, trades
from tests.support.replication import Pair, run_on
from tests.support.streams import is_settled, publish
from tests.support.waiting import until

pytestmark = pytest.mark.servers


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as redis:
        yield redis


@asynccontextmanager
async def consuming(database_url: str, redis_url: str) -> AsyncIterator["asyncio.Task[None]"]:
    stop = asyncio.Event()
    task = asyncio.create_task(consume(Settings(database_url=database_url, redis_url=redis_url), stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


async def trouble_of(redis: Redis) -> str:
    return " ".join(
        sign.trouble.get("database", "") for sign in (await signs_of_life(redis)).of(ConsumerSign) if not sign.healthy
    )


async def stored_on(url: str) -> list[int]:
    async with await create_pool(url, min_size=1, max_size=1, for_reading=True) as pool:
        return await stored_ids(pool)


async def test_a_writer_finds_the_standby_that_is_promoted_and_nothing_is_lost(
    pair: Pair, redis: Redis, redis_url: str
) -> None:
    await run_on(pair.primary_url, "ALTER SYSTEM SET synchronous_standby_names = 'standby'", "SELECT pg_reload_conf()")
    async with consuming(pair.both_url, redis_url) as service:
        await publish(redis, *(trades(range(first, first + 10)) for first in range(1, 500, 10)))
        await until(lambda: is_settled(redis))
        pid = pair.primary.recorded_pid()
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)  # it ends at once
        await publish(redis, *(trades(range(first, first + 10)) for first in range(501, 1_000, 10)))
        await until(lambda: pair.primary.pid() is None)
        await run_on(pair.standby_url, "SELECT pg_promote()")
        promoted = time.monotonic()
        await until(lambda: is_settled(redis), timeout_s=60)
        took_s = time.monotonic() - promoted

        assert not service.done()
    assert await stored_on(pair.standby_url) == list(range(1, 1_001))
    assert took_s < 30  # usually 2 s, the longest pause between two tries


async def test_a_writer_whose_address_leads_to_a_standby_waits_and_goes_on(
    pair: Pair, redis: Redis, redis_url: str
) -> None:
    # The consumer ended with a traceback at the first write.
    await publish(redis, trades([1, 2, 3]))
    async with consuming(pair.standby_url, redis_url) as service:
        await until(lambda: trouble_of(redis))
        assert "read-only transaction" in await trouble_of(redis)
        assert not service.done()
        await run_on(pair.standby_url, "SELECT pg_promote()")
        await until(lambda: is_settled(redis))

    assert await stored_on(pair.standby_url) == [1, 2, 3]


async def test_a_commit_that_waits_for_a_standby_is_reported_as_such(
    pair: Pair, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "EVERY_S", 0.2)
    monkeypatch.setattr(watching, "_LONG_S", 0.5)
    pair.standby.stop(60)
    async with consuming(pair.primary_url, redis_url):
        await until(lambda: signs_of_life(redis))
        await run_on(
            pair.primary_url, "ALTER SYSTEM SET synchronous_standby_names = 'standby'", "SELECT pg_reload_conf()"
        )
        await publish(redis, trades([1, 2, 3]))
        await until(lambda: trouble_of(redis))
        assert "waits for a synchronous standby" in await trouble_of(redis)
        pair.standby.start(60)
        await until(lambda: is_settled(redis))

    assert await stored_on(pair.primary_url) == [1, 2, 3]


async def test_a_reader_is_told_how_far_its_standby_is_behind(pair: Pair) -> None:
    async with await create_pool(pair.primary_url, min_size=1, max_size=1) as pool:
        await Store(pool).write(trades([1, 2]))
        await pair.caught_up()
        async with (
            HistoricalDataProvider(pair.standby_url) as on_standby,
            HistoricalDataProvider(pair.primary_url) as on_primary,
        ):
            assert (await on_primary.health_check()).replica_lag_s is None
            assert (await on_standby.health_check()).replica_lag_s == 0
            await run_on(pair.standby_url, "SELECT pg_wal_replay_pause()")
            await Store(pool).write(trades([3]))

            async def is_behind() -> bool:
                return ((await on_standby.health_check()).replica_lag_s or 0) > 0

            await until(is_behind)


async def test_reads_of_a_standby_keep_their_promises(pair: Pair) -> None:
    start, end = NOON, NOON + timedelta(minutes=5)
    async with (
        await create_pool(pair.primary_url, min_size=1, max_size=1) as pool,
        HistoricalDataProvider(pair.standby_url) as on_standby,
        HistoricalDataProvider(pair.primary_url) as on_primary,
    ):
        await Store(pool).write(trades(range(1, 40)))
        early = await pool.fetchval("SELECT clock_timestamp()")
        await Store(pool).write(trades(range(40, 60)))
        await pair.caught_up()
        followed = on_standby.follow_candles(["BTC/USDT"], 1, start=start, grace_s=0, poll_s=0.05)
        first = await take(followed, 4)
        await followed.aclose()

        assert [candle.timestamp for candle in first] == [start + timedelta(minutes=n) for n in range(4)]
        assert await on_standby.get_coverage("BTC/USDT", start, end) == await on_primary.get_coverage(
            "BTC/USDT", start, end
        )
        for as_of in (None, early):
            candles = await on_standby.get_candles("BTC/USDT", 1, start, end, gaps="ignore", as_of=as_of)
            assert candles == await on_primary.get_candles("BTC/USDT", 1, start, end, gaps="ignore", as_of=as_of)
            assert candles


def test_a_command_that_writes_says_that_the_database_is_a_standby(pair: Pair, command: Run, tmp_path: Path) -> None:
    file = tmp_path / "XBTUSDT_1.csv"
    file.write_text("1704067200,42000,42010,41990,42005,1.5,3\n")
    for words in (["migrate"], ["refresh", "--from", "2024-01-01"], ["import-csv", str(file), "--symbol", "BTC/USDT"]):
        code, output, errors = command(*words, DATABASE_URL=pair.standby_url)

        assert (code, output) == (1, ""), errors
        assert "got a standby, or one that is read-only" in errors
        assert "Traceback" not in errors
