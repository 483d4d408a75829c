"""Writers that are lost in the middle of a transaction, and what the server and the service do about it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from kraken_history.database import statements
from kraken_history.database import watching as module
from kraken_history.database.connections import create_pool
from kraken_history.database.urls import read_database_url
from kraken_history.database.watching import SessionWatch, _Session, in_words, watching
from tests.support.proxy import Proxy
from tests.support.waiting import until

plain_only = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


def with_setting(url: str, setting: str) -> str:
    return urlunsplit(urlsplit(url)._replace(query=setting))


async def test_a_writers_session_ends_itself_if_its_client_is_lost(migrated_database_url: str) -> None:
    # A writer that was frozen held the ledger's lock, and all others waited for as long.
    async with await create_pool(migrated_database_url, min_size=1, max_size=1) as pool:
        assert await pool.fetchval("SHOW idle_in_transaction_session_timeout") == "10s"
        assert await pool.fetchval("SHOW client_connection_check_interval") == "5s"
        assert await pool.fetchval("SHOW tcp_keepalives_idle") == "5"
        assert await pool.fetchval("SHOW tcp_user_timeout") in ("15000", "15s")


async def test_the_url_may_set_another_limit(migrated_database_url: str) -> None:
    url = with_setting(migrated_database_url, "idle_in_transaction_session_timeout=200")
    lock = "SELECT 1 FROM sync_keys WHERE symbol = 'BTC/USDT' FOR UPDATE"
    async with (
        await create_pool(url, min_size=1, max_size=1) as frozen,
        await create_pool(migrated_database_url, min_size=1, max_size=1) as other,
    ):
        await other.execute("INSERT INTO sync_keys (symbol, data_type) VALUES ('BTC/USDT', 'trades')")
        async with frozen.acquire() as connection:
            await connection.execute("BEGIN")
            await connection.execute(lock)  # and then nothing more comes
            async with asyncio.timeout(10):
                assert await other.fetchval(lock) == 1
            with suppress(asyncpg.InterfaceError):  # it has been closed already
                connection.terminate()


async def fall_silent_within_a_transaction(pool: asyncpg.Pool, proxy: Proxy) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT 1")
        proxy.silence_what_is_open()
        await connection.execute("SELECT 2")


async def fall_silent_before_a_statement(pool: asyncpg.Pool, proxy: Proxy) -> None:
    proxy.silence_what_is_open()
    await pool.execute("SELECT 2")


@plain_only
async def test_a_connection_whose_session_has_ended_is_given_up_although_the_network_is_silent(
    migrated_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither a cancelled job nor a statement without a time limit ever ended.
    monkeypatch.setattr(module, "EVERY_S", 0.1)
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.5)
    watch = SessionWatch()
    async with Proxy(with_setting(migrated_database_url, "idle_in_transaction_session_timeout=300")) as proxy:
        pool = await create_pool(proxy.url, min_size=1, max_size=1, sessions=watch.sessions)
        async with watching(proxy.url, watch):
            await until(lambda: len(watch._seen) == 1)
            with pytest.raises(asyncpg.InterfaceError, match="connection is closed"):
                await asyncio.wait_for(fall_silent_within_a_transaction(pool, proxy), 20)

            assert watch.given_up == 1
            assert await pool.fetchval("SELECT 3") == 3
        pool.terminate()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.1)
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.5)
    monkeypatch.setattr(module, "SILENT_S", 0.4)
    monkeypatch.setattr(module, "FROZEN_S", 0.6)


@plain_only
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("inside", [True, False])
async def test_a_connection_that_is_silent_for_ever_is_given_up_with_all_others(
    migrated_database_url: str, inside: bool
) -> None:
    # The statement waited for WRITE_TIMEOUT_S, the ROLLBACK as long again, and then the next connection did the same.
    watch = SessionWatch()
    async with Proxy(migrated_database_url) as proxy:
        pool = await create_pool(proxy.url, min_size=2, max_size=2, sessions=watch.sessions)
        async with watching(proxy.url, watch):
            await until(lambda: len(watch._seen) == 2)
            pids = [each.get_server_pid() for each in watch.sessions.connections]
            fall_silent = fall_silent_within_a_transaction if inside else fall_silent_before_a_statement
            with pytest.raises((asyncpg.InterfaceError, asyncpg.PostgresConnectionError)):
                await asyncio.wait_for(fall_silent(pool, proxy), 20)
            async with asyncio.timeout(5), pool.acquire() as one, pool.acquire() as other:
                await one.execute("SELECT 3")
                await other.execute("SELECT 3")

            assert watch.given_up == 1
            async with await create_pool(migrated_database_url, min_size=1, max_size=1) as direct:
                # That of the idle one is left. The server has ended the other, so that it holds no lock.
                left = "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = ANY ($1)"
                await until(lambda: direct.fetchval(left, pids))
        pool.terminate()


@plain_only
@pytest.mark.usefixtures("quick")
async def test_a_connection_that_waits_for_the_server_or_for_this_process_is_left_alone(
    migrated_database_url: str,
) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for row in (b"1\n", b"2\n"):
            await asyncio.sleep(1)
            yield row

    watch = SessionWatch()
    async with (
        await create_pool(migrated_database_url, min_size=2, max_size=2, sessions=watch.sessions) as pool,
        watching(migrated_database_url, watch),
        pool.acquire() as connection,
    ):
        sleeping = asyncio.create_task(pool.fetchval("SELECT 7 FROM pg_sleep(2)"))
        await connection.execute("CREATE TEMPORARY TABLE numbers (number integer)")
        async with connection.transaction():
            await connection.copy_to_table("numbers", source=slowly())
            await asyncio.sleep(1)
            assert await connection.fetchval("SELECT sum(number) FROM numbers") == 3
        assert await sleeping == 7
    assert (watch.given_up, watch.ended) == (0, 0)


@plain_only
async def test_a_cancelled_statement_does_not_wait_for_a_silent_network(
    migrated_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Also where nothing is watched, behind a pooler, the ROLLBACK waited as long again as the statement.
    monkeypatch.setattr(statements, "CANCELLED_WITHIN_S", 0.3)
    for setting in ("", "pgbouncer=true"):
        async with Proxy(with_setting(migrated_database_url, setting)) as proxy:
            pool = await create_pool(proxy.url, min_size=1, max_size=1, command_timeout_s=5)
            lost = asyncio.create_task(fall_silent_within_a_transaction(pool, proxy))
            await asyncio.sleep(0.5)
            lost.cancel()
            async with asyncio.timeout(3):  # less than the time limit of a statement
                await asyncio.wait([lost])
                assert await pool.fetchval("SELECT 3") == 3
            with suppress(asyncio.CancelledError, asyncpg.InterfaceError):
                await lost
            pool.terminate()


async def copy_and_freeze(pool: asyncpg.Pool, step_s: float) -> int:
    """Lock the ledger's row, and send rows at this pace: the source of a process that is frozen, or only slow."""

    async def rows() -> AsyncIterator[bytes]:
        for number in range(4):
            yield b"%d\n" % number + b" " * 70_000
            await asyncio.sleep(step_s)

    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM sync_keys FOR UPDATE")
        await connection.execute("CREATE TEMPORARY TABLE words (word text) ON COMMIT DROP")
        await connection.copy_to_table("words", source=rows())
    return 0


@plain_only
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("step_s", "name", "is_ended"),
    [(60, "", True), (0.3, "", False), (1, "application_name=psql", False)],
    ids=["frozen", "slow", "not-ours"],
)
async def test_a_writer_that_is_frozen_in_a_copy_is_ended_once_another_waits_for_its_lock(
    migrated_database_url: str, step_s: float, name: str, is_ended: bool
) -> None:
    # Its session was neither idle nor lost, so the others waited until it went on.
    watch = SessionWatch()
    async with (
        await create_pool(with_setting(migrated_database_url, name), min_size=1, max_size=1) as frozen,
        await create_pool(migrated_database_url, min_size=1, max_size=1, sessions=watch.sessions) as other,
        watching(migrated_database_url, watch),
    ):
        await other.execute("INSERT INTO sync_keys VALUES ('BTC/USDT', 'trades')")
        copying = asyncio.create_task(copy_and_freeze(frozen, step_s))
        await until(lambda: other.fetchval("SELECT EXISTS (SELECT FROM pg_stat_progress_copy)"))
        async with asyncio.timeout(20):
            assert await other.fetchval("SELECT 1 FROM sync_keys FOR UPDATE") == 1

        assert watch.ended == is_ended
        if is_ended:
            copying.cancel()
            with suppress(asyncio.CancelledError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await copying
        else:
            assert await copying == 0


@plain_only
async def test_a_statement_that_waits_long_is_put_into_words(
    migrated_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.05)
    monkeypatch.setattr(module, "_LONG_S", 0.2)
    watch = SessionWatch()
    async with (
        await create_pool(migrated_database_url, min_size=2, max_size=2, sessions=watch.sessions) as pool,
        watching(migrated_database_url, watch),
        pool.acquire() as holder,
        holder.transaction(),
    ):
        await holder.execute("LOCK TABLE trades")
        waiting = asyncio.create_task(pool.fetchval("SELECT count(*) FROM trades"))
        await until(lambda: watch.wait)
        assert watch.wait == "a statement waits for a lock that 1 other session(s) hold"
        await holder.execute("ROLLBACK; BEGIN")
        assert await waiting == 0
        await until(lambda: not watch.wait)


def test_only_a_long_wait_is_worth_a_word() -> None:
    assert in_words([]) == ""
    assert in_words([_Session(1, "IPC", "SyncRep", 4.9, 0)]) == ""
    assert in_words([_Session(1, None, None, 60.0, 0)]) == ""
    assert "standby that does not answer" in in_words([_Session(1, "IPC", "SyncRep", 5.0, 0)])
    assert in_words([_Session(1, "IO", "WALSync", 9.0, 0), _Session(2, "Lock", "tuple", 6.0, 1)]) == (
        "a statement waits for IO WALSync"
    )


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql://a:1,b:2/name", "read-write"),
        ("postgresql://a:1/name", None),
        ("postgresql://a:1,b:2/name?target_session_attrs=primary", None),
    ],
)
def test_of_several_hosts_a_writer_chooses_one_that_takes_writes(url: str, wanted: str | None) -> None:
    assert read_database_url(url).writers_arguments().get("target_session_attrs") == wanted
    assert "target_session_attrs" not in read_database_url(url).asyncpg_arguments()
