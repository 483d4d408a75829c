"""Redis is killed in the middle of backfills, and comes back knowing nothing."""

import asyncio
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from kraken_history.embedded.binaries import find_binaries
from kraken_history.embedded.process import free_port, reap
from kraken_history.embedded.valkey import Valkey
from kraken_history.fetching.backfill_targets import list_backfills
from tests.backfill.workers import surroundings
from tests.support.kraken import CountedSimulator, assert_equals_truth
from tests.support.services import WORKER, Service
from tests.support.waiting import until

SYMBOLS = ("BTC/USDT", "ETH/USDT", "XRP/USDT")
PAIRS = ("XBTUSDT", "ETHUSDT", "XRPUSDT")
OUTAGE_S = 3.0


class MortalRedis:
    """A Valkey that a test may kill."""

    def __init__(self, folder: Path) -> None:
        self._password = secrets.token_hex(8)
        self._valkey = Valkey(
            find_binaries().valkey_server, folder / "valkey", port=free_port(), password=self._password,
            log=folder / "valkey.log", durable=False,
        )  # fmt: skip

    @property
    def url(self) -> str:
        """With its password."""
        return f"redis://:{self._password}@127.0.0.1:{self._valkey.port}/0"

    def start(self) -> None:
        """With an empty memory."""
        shutil.rmtree(self._valkey.data, ignore_errors=True)
        self._valkey.configure()
        self._valkey.start(30)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        pid = self._valkey.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while self._valkey.pid() is not None:
            reap()

    def freeze(self) -> None:
        """Have it take connections and say nothing."""
        pid = self._valkey.pid()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo that, if it is there."""
        if (pid := self._valkey.pid()) is not None:
            os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """In good order, if it runs."""
        self._valkey.stop(30)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[MortalRedis]:
    redis = MortalRedis(tmp_path)
    redis.start()
    yield redis
    redis.thaw()
    redis.stop()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_redis_is_killed_and_comes_back_empty_and_it_costs_nothing_but_time(
    migrated_database_url: str, redis: MortalRedis, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """arq's worker ended with a traceback at the first command that found no Redis."""
    kraken = CountedSimulator(SYMBOLS, history=30_000, history_hours=24)
    async with surroundings(
        kraken, pool, migrated_database_url, redis.url, tmp_path, rest_call_spacing_s=0.1, rest_total_spacing_s=0.001,
    ) as around:  # fmt: skip
        await around.ask(*SYMBOLS)
        await around.workers.start()

        async def have_begun() -> bool:
            return all(backfill.pages >= 2 for backfill in await list_backfills(pool))

        await around.until(have_begun, timeout_s=20)
        redis.kill()
        begin, pages = time.monotonic(), await around.pages()
        await asyncio.sleep(OUTAGE_S)
        assert await around.pages() <= pages + len(SYMBOLS)  # nobody knows whose turn it is
        redis.start()
        await around.until(around.is_done, timeout_s=15)

        await assert_equals_truth(pool, kraken)
        assert time.monotonic() - begin < OUTAGE_S + 10
        by_pair = kraken.times_by_pair()
        assert sum(len(by_pair[pair]) for pair in PAIRS) == await around.pages()  # nothing was fetched twice


@pytest.mark.timeout(60)
@pytest.mark.parametrize("is_silent", [False, True])
@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_worker_that_waits_for_redis_can_be_stopped(
    migrated_database_url: str, redis: MortalRedis, pool: asyncpg.Pool, tmp_path: Path, is_silent: bool
) -> None:
    """It ended with two tracebacks, since arq has a last word for Redis; with a silent one, not at all."""
    kraken = CountedSimulator(SYMBOLS[:1], history=30_000, history_hours=24)
    async with surroundings(kraken, pool, migrated_database_url, redis.url, tmp_path) as around:
        environment = {
            "DATABASE_URL": migrated_database_url,
            "REDIS_URL": redis.url,
            "KRAKEN_REST_URL": kraken.rest_url,
            "SYMBOLS": "XRP/BTC",
        }
        with Service(WORKER, tmp_path / "worker.log", environment) as worker:
            await around.ask(SYMBOLS[0])

            async def has_begun() -> bool:
                return await around.pages() >= 1

            await around.until(has_begun, timeout_s=20)
            if is_silent:
                redis.freeze()
            else:
                redis.kill()
                await until(lambda: '"event": "waiting"' in worker.output, timeout_s=10)
            begin = time.monotonic()

            assert worker.terminate() == 0
            assert time.monotonic() - begin < 10
            assert "Traceback" not in worker.output
        redis.thaw()  # for our own client of it, which has no bound
