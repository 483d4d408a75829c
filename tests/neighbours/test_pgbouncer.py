"""PgBouncer in front of the database: in transaction mode, it gives each transaction another session."""

import asyncio
import time
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

import msgspec
import pytest

from kraken_history.database.connections import connect, create_pool
from kraken_history.database.migrations import migrate
from kraken_history.database.poolers import is_pooled
from kraken_history.errors import HistoryError, ServiceUnavailable, UsageError
from kraken_history.provider import HistoricalDataProvider
from kraken_history.storing.aggregates import RefreshIsRunning, refresh, sole_refresher
from kraken_history.storing.store import Store
from tests.support.command import Run
from tests.support.database import stored_trades
from tests.support.followed import Following
from tests.support.neighbours import pgbouncer
from tests.support.records import NOON, trades
from tests.support.waiting import until

pytestmark = pytest.mark.servers
transaction_only = pytest.mark.parametrize("pooled_url", ["transaction"], indirect=True)
plain_only = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


async def test_a_pooler_is_recognised_unless_the_url_says_so(database_url: str, pooled_url: str) -> None:
    for url, expected in [(database_url, False), (pooled_url, True), (f"{pooled_url}?pgbouncer=false", False)]:
        connection = await connect(url)
        pool = await create_pool(url, min_size=1, max_size=1)
        async with pool.acquire() as lent:
            assert (is_pooled(connection), is_pooled(lent)) == (expected, expected)
        await connection.close()
        await pool.close()


async def test_migrations_leave_no_lock_behind(database_url: str, pooled_url: str) -> None:
    # The lock of the session stayed with PgBouncer's session, and the next `migrate` waited for it for a minute.
    began = time.monotonic()
    for _ in range(3):
        await asyncio.gather(*(migrate(pooled_url) for _ in range(3)))

    assert time.monotonic() - began < 30
    direct = await connect(database_url)
    assert await direct.fetchval(_LOCKS) == 0
    await direct.close()


async def test_only_one_process_refreshes_at_a_time(database_url: str, pooled_url: str) -> None:
    await migrate(database_url)
    async with (
        await create_pool(pooled_url, min_size=1, max_size=1) as pooled,
        await create_pool(database_url, min_size=1, max_size=1) as direct,
    ):
        async with sole_refresher(pooled):
            with pytest.raises(RefreshIsRunning):
                await refresh(direct)
        await refresh(direct)
        async with sole_refresher(direct):
            with pytest.raises(RefreshIsRunning):
                await refresh(pooled)
        await refresh(pooled)

        assert await direct.fetchval(_LOCKS) == 0


async def test_what_is_stored_and_read_through_it_is_what_is_there(database_url: str, pooled_url: str) -> None:
    await migrate(pooled_url)
    symbols = [f"BTC/USD{letter}" for letter in "ABCDEF"]
    end = NOON + timedelta(days=1)

    async with await create_pool(pooled_url, min_size=1, max_size=4) as pool:
        store = Store(pool)
        for first in (1, 41):
            await asyncio.gather(*(store.write(trades(range(first, first + 40), symbol)) for symbol in symbols))
        assert await refresh(pool)
    async with (
        HistoricalDataProvider(pooled_url, 2, 8) as pooled,
        HistoricalDataProvider(database_url, 1, 2) as direct,
        await create_pool(database_url, min_size=1, max_size=1) as pool,
    ):
        assert len(await stored_trades(pool)) == 80 * len(symbols)
        for interval in (1, 7, 60):
            reads = await asyncio.gather(
                *(pooled.get_candles(each, interval, NOON, end, gaps="ignore") for each in symbols * 5)
            )
            assert reads[: len(symbols)] == [
                await direct.get_candles(each, interval, NOON, end, gaps="ignore") for each in symbols
            ]
        replayed = [trade async for trade in pooled.replay_trades(symbols[0], NOON, end, speed=0, gaps="ignore")]
        assert len(replayed) == 80
        tables = await asyncio.gather(
            *(pooled.get_candles_arrow(each, 60, NOON, end, gaps="ignore") for each in symbols * 3)
        )
        assert tables[0].equals(await direct.get_candles_arrow(symbols[0], 60, NOON, end, gaps="ignore"))


async def test_no_session_of_the_server_is_changed(database_url: str, pooled_url: str) -> None:
    """Others get the same sessions later."""
    await migrate(pooled_url)
    async with await create_pool(pooled_url, min_size=1, max_size=4) as pool:
        await Store(pool).write(trades(range(1, 100)))
        await refresh(pool)
    async with HistoricalDataProvider(pooled_url, 1, 4) as provider:
        await provider.get_candles("BTC/USDT", 60, NOON, NOON + timedelta(days=1), gaps="ignore")

    connection = await connect(pooled_url)
    for _ in range(20):
        assert await connection.fetch(_CHANGED_SETTINGS) == []
        assert await connection.fetch("SELECT name FROM pg_prepared_statements") == []
    await connection.close()


async def test_followers_poll(database_url: str, pooled_url: str) -> None:
    await migrate(database_url)
    async with (
        HistoricalDataProvider(pooled_url, 1, 2) as provider,
        await create_pool(database_url, min_size=1, max_size=1) as pool,
        Following(provider.follow_candles(["BTC/USDT"], 1, start=NOON, poll_s=0.2)) as follower,
    ):
        await Store(pool).write(trades(range(1, 30)))
        await until(lambda: follower.seen)

    assert follower.seen[0].timestamp == NOON


@plain_only
@transaction_only
@pytest.mark.parametrize(
    ("arguments", "named"),
    [("?search_path=public", "search_path"), ("?options=-c%20work_mem%3D8MB", "options"), ("?sslmode=require", "TLS")],
)
async def test_an_argument_that_it_refuses_is_named(pooled_url: str, arguments: str, named: str) -> None:
    with pytest.raises(HistoryError, match=named) as refusal:
        await connect(pooled_url + arguments)

    assert "\n" not in str(refusal.value)


@plain_only
@transaction_only
@pytest.mark.parametrize("account", ["kraken:wrong", "nobody:wrong"])
async def test_a_wrong_account_is_the_users_to_correct(pooled_url: str, account: str) -> None:
    parts = urlsplit(pooled_url)
    url = urlunsplit(parts._replace(netloc=f"{account}@{parts.hostname}:{parts.port}"))

    with pytest.raises(UsageError, match=r"correct user.* in DATABASE_URL"):
        await connect(url)


@plain_only
async def test_statement_mode_is_refused_in_one_line(database_url: str) -> None:
    with (
        pgbouncer(database_url, pool_mode="statement") as url,
        pytest.raises(UsageError, match="pool_mode = transaction or session") as refusal,
    ):
        await connect(url)

    assert "\n" not in str(refusal.value)


@plain_only
async def test_a_pooler_without_a_server_may_come_back(database_url: str) -> None:
    parts = urlsplit(database_url)
    nowhere = urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:9"))
    settings = {"query_wait_timeout": "1"}
    with pgbouncer(nowhere, pool_mode="transaction", settings=settings) as url, pytest.raises(ServiceUnavailable):
        await connect(url)


@pytest.mark.slow
@transaction_only
def test_the_whole_system_runs_behind_it(pooled_url: str, redis_url: str, command: Run) -> None:
    """Producer, consumer, worker and commands, all with the same URL."""
    outcome = command("demo", "--seconds", "4", "--json", DATABASE_URL=pooled_url, REDIS_URL=redis_url)

    assert outcome.code == 0, outcome.err
    assert msgspec.json.decode(outcome.out)["ok"], outcome.err


# PgBouncer itself sets the encoding.
_CHANGED_SETTINGS = """
    SELECT name FROM pg_settings WHERE source = 'session' AND setting <> reset_val AND name <> 'client_encoding'
"""
_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
