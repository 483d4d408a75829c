"""What a paper tester came to is kept, once, also where the database is away when it ends."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import msgspec
import pytest

from kraken_history.backtests import BacktestRun, list_runs
from kraken_history.database.connections import Connection, create_pool
from kraken_history.records import HistoricalTrade
from kraken_history.storing.store import Store
from tests.examples.testers import PaperTester, saved_run
from tests.support.examples import NOON, make_trade
from tests.support.proxy import Proxy
from tests.support.waiting import until

pytestmark = pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)

WORDS = ("--fast", "1", "--slow", "2", "--no-gap-fill")


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
        yield pool


def trades(*prices: str) -> list[HistoricalTrade]:
    return [make_trade(n, NOON + n * timedelta(minutes=1), price) for n, price in enumerate(prices)]


@pytest.fixture
async def proxy(migrated_database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(migrated_database_url) as proxy:
        yield proxy


async def trade_on_paper(tester: PaperTester, pool: asyncpg.Pool) -> None:
    """Have a candle given out."""
    await until(lambda: tester.is_following)
    await Store(pool).write(trades("100", "100", "110", "120"))
    await until(lambda: len(tester.candles("BTC/USDT")) == 1)


async def test_a_result_waits_for_a_database_that_is_away(
    migrated_database_url: str, pool: asyncpg.Pool, proxy: Proxy, tmp_path: Path
) -> None:
    await Store(pool).write(trades("100", "100", "110"))
    with PaperTester(tmp_path / "log", proxy.url, *WORDS) as tester:
        await trade_on_paper(tester, pool)
        await proxy.cut()
        stopping = asyncio.create_task(asyncio.to_thread(tester.stop))
        await until(lambda: "until then the result waits here" in tester.output)
        await proxy.restore()
        code = await stopping

    assert code == 0
    assert [str(run.id) for run in await list_runs(pool)] == [saved_run(tester.output)]


async def test_a_result_that_was_saved_without_an_answer_is_not_saved_again(
    migrated_database_url: str, pool: asyncpg.Pool, proxy: Proxy, tmp_path: Path
) -> None:
    await Store(pool).write(trades("100", "100", "110"))
    await pool.execute("""
        CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW; END $$;
        CREATE TRIGGER linger AFTER INSERT ON backtest_runs FOR EACH ROW EXECUTE FUNCTION linger();
    """)
    with PaperTester(tmp_path / "log", proxy.url, *WORDS) as tester:
        await trade_on_paper(tester, pool)
        async with pool.acquire() as connection:
            await connection.execute("SELECT pg_advisory_lock(7)")
            stopping = asyncio.create_task(asyncio.to_thread(tester.stop))
            await until(lambda: _waits_for_lock(connection))
            await proxy.cut()
            await connection.execute("SELECT pg_advisory_unlock(7)")
            await until(lambda: list_runs(pool))
        await proxy.restore()
        code = await stopping

    assert code == 0
    assert [str(run.id) for run in await list_runs(pool)] == [saved_run(tester.output)]


async def _waits_for_lock(connection: Connection) -> bool:
    return bool(
        await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)")
    )


async def test_a_result_goes_into_a_file_where_the_database_stays_away(
    migrated_database_url: str, pool: asyncpg.Pool, proxy: Proxy, tmp_path: Path
) -> None:
    await Store(pool).write(trades("100", "100", "110"))
    words = (*WORDS, "--save-patience", "0.5")
    with PaperTester(tmp_path / "log", proxy.url, *words, folder=tmp_path) as tester:
        await trade_on_paper(tester, pool)
        await proxy.cut()
        code = await asyncio.to_thread(tester.stop)
    [file] = tmp_path.glob("*.json")  # noqa: ASYNC240 — a folder of its own
    run = msgspec.json.decode(file.read_bytes(), type=BacktestRun)

    assert code == 1
    assert tester.output.splitlines()[-1].endswith(f"the result is in {file} instead")
    assert (run.symbols, run.end_time) == (("BTC/USDT",), NOON + timedelta(minutes=3))
    assert await list_runs(pool) == []
