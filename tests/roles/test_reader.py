"""A user in kraken_reader reads everything that the provider reads, keeps backtests, and changes nothing else."""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sized
from datetime import datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest

from kraken_history.backtests import BacktestRun
from kraken_history.cli.disk_sizes import fetch_sizes
from kraken_history.indicators import store_indicators
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.measured_coverage import measure_coverage
from kraken_history.reading.stored_extent import read_dropped, read_extents
from kraken_history.records import ExternalIndicator
from kraken_history.storing.store import Store
from tests.support.examples import NOON, make_candle, make_trade

BASE_TABLES = (
    "trades", "candles", "external_indicators", "data_sync_status", "candle_aggregates", "backfills",
    "absence_evidence", "schema_migrations", "dropped_ranges", "dropped_rows",
    "refused_trades", "unreachable_trades", "reused_ids", "waiting_trades", "removed_trades", "contested_minutes",
    "corrected_minutes", "longer_candles", "stale_hours", "stale_buckets", "archived_months",
)  # fmt: skip
SYMBOL = "BTC/USDT"
END = NOON + timedelta(hours=2)
RUN = BacktestRun(
    strategy_name="crossing", symbols=(SYMBOL,), start_time=NOON, end_time=END, parameters={"fast": 5}, metrics={}
)


@pytest.fixture
async def stored(migrated_database_url: str) -> None:
    async with asyncpg.create_pool(migrated_database_url, min_size=1, max_size=1) as pool:
        await Store(pool).write(
            [make_trade(n, NOON + n * timedelta(seconds=20)) for n in range(1, 200)],
            [make_candle(END, symbol="ETH/USDT")],
        )
        await store_indicators(pool, [ExternalIndicator(NOON, "fear_greed", Decimal(40), "alternative.me")])


@pytest.fixture
async def reader(reader_url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(reader_url)
    yield opened
    await opened.close()


async def taken(items: AsyncIterator[object], count: int) -> list[object]:
    """The first of them."""
    found: list[object] = []
    async for item in items:
        found.append(item)
        if len(found) == count:
            break
    if isinstance(items, AsyncGenerator):
        await items.aclose()
    return found


Read = Callable[[HistoricalDataProvider], Awaitable[object]]

READS: dict[str, Read] = {
    "get_candles": lambda p: p.get_candles(SYMBOL, 60, NOON, END, gaps="ignore"),
    "get_latest_candles": lambda p: p.get_latest_candles(SYMBOL, 5, 3),
    "get_warmup_data": lambda p: p.get_warmup_data(SYMBOL, 15, 2, end=END, gaps="ignore"),
    "get_multi_timeframe_candles": lambda p: p.get_multi_timeframe_candles(SYMBOL, END, gaps="ignore"),
    "replay_candles": lambda p: taken(p.replay_candles(SYMBOL, 1, NOON, END, 0, gaps="ignore"), 3),
    "get_trades": lambda p: p.get_trades(SYMBOL, NOON, END, gaps="ignore"),
    "replay_trades": lambda p: taken(p.replay_trades(SYMBOL, NOON, END, 0, gaps="ignore"), 3),
    "replay": lambda p: taken(p.replay([SYMBOL], [1, 5], NOON, END, 0, with_trades=True, gaps="ignore"), 3),
    "follow_candles": lambda p: taken(p.follow_candles([SYMBOL], 1, start=NOON), 3),
    "get_coverage": lambda p: p.get_coverage(SYMBOL, NOON, END),
    "require_complete": lambda p: p.require_complete(SYMBOL, NOON + timedelta(minutes=1), END - timedelta(hours=1)),
    "verify": lambda p: p.verify([SYMBOL]),
    "get_candles_arrow": lambda p: p.get_candles_arrow(SYMBOL, 1, NOON, END, gaps="ignore"),
    "get_trades_arrow": lambda p: p.get_trades_arrow(SYMBOL, NOON, END, gaps="ignore"),
    "get_trades_frame": lambda p: p.get_trades_frame(SYMBOL, NOON, END, gaps="ignore"),
    "get_candles_frame": lambda p: p.get_candles_frame(SYMBOL, 1, NOON, END, gaps="ignore"),
    "find_symbol": lambda p: p.find_symbol("XBTUSDT"),
    "get_symbols": lambda p: p.get_symbols(),
    "get_sync_status": lambda p: p.get_sync_status(SYMBOL),
    "get_data_range": lambda p: p.get_data_range(SYMBOL),
    "get_external_indicators": lambda p: p.get_external_indicators("fear_greed", NOON, END),
    "health_check": lambda p: p.health_check(),
}


def test_every_method_that_reads_is_tried() -> None:
    methods = {name for name, _ in inspect.getmembers(HistoricalDataProvider, inspect.isfunction) if name[0] != "_"}

    assert methods - {"connect", "close", "save_run", "list_runs", "load_run"} == READS.keys()


@pytest.mark.usefixtures("stored")
async def test_the_provider_reads_with_it(reader_url: str) -> None:
    async with HistoricalDataProvider(reader_url, 1, 2) as provider:
        for method, read in READS.items():
            found = await read(provider)
            assert len(found) if isinstance(found, Sized) else found, method
        assert (await provider.health_check()).is_healthy


@pytest.mark.usefixtures("stored")
async def test_candles_as_they_were_known_and_over_gaps_are_read_with_it(reader_url: str) -> None:
    async with HistoricalDataProvider(reader_url, 1, 2) as provider:
        present = await provider.get_candles(SYMBOL, 15, NOON, END, gaps="ignore")

        assert await provider.get_candles(SYMBOL, 15, NOON, END, as_of=datetime.now(NOON.tzinfo)) == present
        assert await provider.get_candles(SYMBOL, 15, NOON, END, as_of=NOON) == []
        assert await provider.get_candles(SYMBOL, 15, NOON, END, gaps="pad")


async def test_it_keeps_results_of_backtests(reader_url: str) -> None:
    async with HistoricalDataProvider(reader_url, 1, 2) as provider:
        id_ = await provider.save_run(RUN)

        assert (await provider.load_run(id_)).parameters == {"fast": 5}
        assert [run.id for run in await provider.list_runs()] == [id_]


@pytest.mark.usefixtures("stored")
async def test_it_changes_nothing_else(reader: asyncpg.Connection) -> None:
    for table in BASE_TABLES:
        for statement in (
            f"INSERT INTO {table} SELECT (NULL::{table}).*",
            f"UPDATE {table} SET {await first_column(reader, table)} = NULL",  # noqa: S608
            f"DELETE FROM {table}",  # noqa: S608
            f"TRUNCATE {table}",
            f"DROP TABLE {table}",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.execute(statement)
    for statement in ("UPDATE backtest_runs SET metrics = '{}'", "DELETE FROM backtest_runs", "CREATE TABLE mine ()"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(statement)


async def first_column(connection: asyncpg.Connection, table: str) -> str:
    name: str = await connection.fetchval(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum = 1", table
    )
    return name


@pytest.mark.usefixtures("stored")
async def test_partitions_chunks_and_what_is_materialised_are_closed_to_it_as_well(reader: asyncpg.Connection) -> None:
    open_to_it = await reader.fetch(
        """
        SELECT c.oid::regclass::text AS name, p.privilege
        FROM pg_class c, unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']) AS p (privilege)
        WHERE c.relkind IN ('r', 'p', 'v', 'm') AND has_table_privilege(c.oid, p.privilege)
          AND c.relnamespace::regnamespace::text <> ALL (ARRAY['pg_catalog', 'information_schema', 'pg_toast'])
          AND NOT pg_is_other_temp_schema(c.relnamespace)
        """
    )

    assert [tuple(row) for row in open_to_it] == [("backtest_runs", "INSERT")]


async def test_it_makes_no_partitions(reader: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="function ensure_partitions"):
        await reader.execute("SELECT ensure_partitions('trades', ARRAY[now()])")


async def test_every_table_is_open_to_it_or_is_known_to_be_none_of_its_business(reader: asyncpg.Connection) -> None:
    # A migration that makes a table and forgets to grant it fails here.
    closed = await reader.fetch(
        """
        SELECT relname FROM pg_class
        WHERE relnamespace = current_schema::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND NOT relispartition
          AND NOT has_table_privilege(oid, 'SELECT')
        """
    )

    assert {row["relname"] for row in closed} <= {"absence_evidence", "partition_widths"}


async def test_it_can_see_what_is_missing_and_how_large_it_is(stored: None, reader: asyncpg.Connection) -> None:
    """What `coverage` and `status` read of the database."""
    extent = (await read_extents(reader))[SYMBOL]
    measured = await measure_coverage(reader, SYMBOL, extent.since, extent.until)
    sizes = await fetch_sizes(reader)

    assert measured.missing == []
    assert await read_dropped(reader) == {}
    assert sizes.database > sizes.trades > 0
