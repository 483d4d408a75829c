"""Writers that are lost in the middle of a transaction, and what the server and the service do about it."""

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

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
            with pytest.raises(asyncpg.InterfaceError, match="connection is closed"):
                await asyncio.wait_for(fall_silent_within_a_transaction(pool, proxy), 20)

            assert watch.given_up == 1
            assert await pool.fetchval("SELECT 3") == 3
        pool.terminate()


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
