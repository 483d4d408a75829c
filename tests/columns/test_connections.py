"""How columns come from a server that is elsewhere, slow, going away or not there."""

import asyncio
import subprocess
import sys
from urllib.parse import urlsplit

import asyncpg
import pytest

from kraken_history.database.urls import read_database_url
from kraken_history.errors import ProviderClosed, ServiceUnavailable
from kraken_history.provider import HistoricalDataProvider
from tests.columns.conftest import END, START, SYMBOL
from tests.support.proxy import Proxy

POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


@pytest.mark.parametrize(
    ("url", "as_libpq_takes_it"),
    [
        ("postgres://h/x", "postgresql://h/x?"),
        ("postgresql://me:p%40ss:w%@h1:1,h2:2/x", "postgresql://me:p%40ss%3Aw%25@h1:1,h2:2/x?"),
        ("postgresql://me:a%2Fb%25@[::1]:1/x", "postgresql://me:a%2Fb%25@[::1]:1/x?"),
        (
            "postgresql://h/x?target_session_attrs=prefer-standby&sslmode=require",
            "postgresql://h/x?sslmode=require&target_session_attrs=prefer-standby&",
        ),
        (
            "postgresql://h/?database=x&application_name=my tester&search_path=a,b",
            "postgresql://h/x?application_name=my%20tester&options=-c%20search_path%3Da%2Cb&",
        ),
    ],
)
def test_a_url_means_the_same_to_both_drivers(url: str, as_libpq_takes_it: str) -> None:
    patience = "connect_timeout=10&keepalives_idle=15&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=30000"

    assert read_database_url(url).libpq_url() == as_libpq_takes_it + patience


@POSTGRESQL
async def test_hosts_passwords_and_settings_of_a_url_work(
    pool: asyncpg.Pool, provider: HistoricalDataProvider, migrated_database_url: str
) -> None:
    await pool.execute("DROP ROLE IF EXISTS columns_reader")
    await pool.execute("CREATE ROLE columns_reader LOGIN SUPERUSER PASSWORD 'p@ss:w %d'")
    parts = urlsplit(migrated_database_url)
    url = (
        f"postgresql://columns_reader:p%40ss:w %25d@127.0.0.1:1,{parts.hostname}:{parts.port}{parts.path}"
        "?application_name=my tester&target_session_attrs=any&extra_float_digits=0&work_mem=8MB"
    )

    async with HistoricalDataProvider(url, 1, 1) as reader:
        table = await reader.get_candles_arrow(SYMBOL, 1, START, END, gaps="ignore")

    assert table.num_rows == (await provider.get_candles_arrow(SYMBOL, 1, START, END, gaps="ignore")).num_rows
    await pool.execute("DROP ROLE columns_reader")


@POSTGRESQL
async def test_many_reads_at_once(provider: HistoricalDataProvider) -> None:
    tables = await asyncio.gather(
        *(provider.get_candles_arrow(SYMBOL, 60, START, END, gaps="ignore") for _ in range(12))
    )

    assert all(table.equals(tables[0]) for table in tables)
    assert tables[0].num_rows > 100


@POSTGRESQL
async def test_a_cancelled_read_leaves_nothing_running(pool: asyncpg.Pool, provider: HistoricalDataProvider) -> None:
    expected = await provider.get_candles_arrow(SYMBOL, 1, START, END, gaps="ignore")
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE candles IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(provider.get_candles_arrow(SYMBOL, 1, START, END, gaps="ignore"))
        await until_it_runs(pool)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        left = await backends(pool, "%open::text%")

    assert left == 0
    assert (await provider.get_candles_arrow(SYMBOL, 1, START, END, gaps="ignore")).equals(expected)


async def until_it_runs(pool: asyncpg.Pool) -> None:
    while not await backends(pool, "%open::text%"):  # noqa: ASYNC110 — the server has no event to wait for
        await asyncio.sleep(0.01)


async def backends(pool: asyncpg.Pool, query: str) -> int:
    return int(
        await pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE $1"
            " AND state = 'active'",
            query,
        )
    )


@POSTGRESQL
async def test_a_connection_that_is_cut_is_told_and_the_next_read_works(
    pool: asyncpg.Pool, provider: HistoricalDataProvider
) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE candles IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(provider.get_candles_arrow(SYMBOL, 1, START, END, gaps="ignore"))
        await until_it_runs(pool)
        await pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE '%open::text%' AND pid <> pg_backend_pid()"
        )
        with pytest.raises(ServiceUnavailable, match="try again"):
            await reading

    assert (await provider.get_candles_arrow(SYMBOL, 1, START, END, gaps="ignore")).num_rows > 100


@POSTGRESQL
async def test_what_the_server_refuses_is_what_the_other_reads_raise(
    pool: asyncpg.Pool, provider: HistoricalDataProvider
) -> None:
    await pool.execute("ALTER TABLE candles RENAME COLUMN vwap TO other")

    for read in (provider.get_candles, provider.get_candles_arrow):
        with pytest.raises(asyncpg.UndefinedColumnError):
            await read(SYMBOL, 1, START, END, gaps="ignore")


@POSTGRESQL
async def test_the_event_loop_goes_on_meanwhile(pool: asyncpg.Pool, provider: HistoricalDataProvider) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE candles IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(provider.get_candles_arrow(SYMBOL, 1, START, END, gaps="ignore"))
        await until_it_runs(pool)
        is_waiting = not reading.done()

    assert is_waiting
    assert (await reading).num_rows > 100


@POSTGRESQL
async def test_a_closed_provider_is_told(provider: HistoricalDataProvider) -> None:
    await provider.close()

    with pytest.raises(ProviderClosed):
        await provider.get_candles_arrow(SYMBOL, 1, START, END, gaps="ignore")


@POSTGRESQL
async def test_a_database_that_went_away_is_told_without_the_password(
    provider: HistoricalDataProvider, migrated_database_url: str
) -> None:
    async with Proxy(migrated_database_url) as proxy, HistoricalDataProvider(proxy.url, 1, 1) as reader:
        await proxy.cut()
        with pytest.raises(ServiceUnavailable, match="Connection refused") as first:
            await reader.get_candles_arrow(SYMBOL, 1, START, END, gaps="ignore")
        await proxy.restore()
        before = await reader.get_candles_arrow(SYMBOL, 1, START, END, gaps="ignore")
        await proxy.cut()
        with pytest.raises(ServiceUnavailable, match="try again") as second:
            await reader.get_candles_arrow(SYMBOL, 1, START, END, gaps="ignore")
        await proxy.restore()
        after = await reader.get_candles_arrow(SYMBOL, 1, START, END, gaps="ignore")

    assert before.num_rows > 100
    assert after.equals(before)
    password = str(urlsplit(migrated_database_url).password)
    assert password not in str(first.value) + str(second.value)


@pytest.mark.parametrize("package", ["pyarrow", "adbc_driver_postgresql", "polars", "pandas"])
def test_without_the_packages_it_is_said_what_to_install(package: str) -> None:
    code = f"""
import asyncio, sys
sys.modules[{package!r}] = None
from datetime import UTC, datetime
from kraken_history.errors import MissingExtra
from kraken_history.provider import HistoricalDataProvider
provider = HistoricalDataProvider("postgresql://127.0.0.1:1/x")
read = provider.get_candles_arrow if {package!r} not in ("polars", "pandas") else provider.get_candles_frame
options = {{}} if read == provider.get_candles_arrow else {{"as_": {package!r}}}
try:
    asyncio.run(read("BTC/USDT", 1, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), **options))
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    extra = "frames" if package in ("polars", "pandas") else "arrow"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{package} is not installed: run pip install '.[{extra}]' in the folder of kraken-history\n"


def test_the_provider_imports_without_the_packages() -> None:
    blocked = ("pyarrow", "adbc_driver_manager", "adbc_driver_postgresql", "polars", "pandas", "matplotlib")
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); import kraken_history.provider"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
