"""A user in kraken_writer stores whatever the services store, wherever it falls, and owns nothing."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest

from kraken_history.completeness.absence import note_passed_over
from kraken_history.completeness.covered_time import cover
from kraken_history.csv_import import CsvImporter, Imported, found_files
from kraken_history.database.connections import create_pool
from kraken_history.fetching.backfill_targets import list_backfills, pause_backfills, request_backfill
from kraken_history.indicators import store_indicators
from kraken_history.ledger import IdRanges
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import ExternalIndicator, TimeRange
from kraken_history.storing.candle_building import build_candles_from_trades
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair
from tests.support.csv_files import START, candle_line, write
from tests.support.examples import NOON, make_candle, make_trade

hypertables_only = pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def pool(writer_url: str) -> AsyncIterator[asyncpg.Pool]:
    opened = await create_pool(writer_url, min_size=1, max_size=3)
    yield opened
    opened.terminate()


async def test_it_writes_into_days_that_have_no_partition_yet(pool: asyncpg.Pool, writer_url: str) -> None:
    store = Store(pool)
    for day in (NOON, NOON + timedelta(days=1), NOON - timedelta(days=4000)):
        stored = await store.write([make_trade(day.toordinal(), day)], [make_candle(day + MINUTE)])
        assert (stored.new_trades, stored.new_candles) == (1, 2)

    async with HistoricalDataProvider(writer_url, 1, 1) as provider:
        assert (
            len(
                await provider.get_candles(
                    "BTC/USDT", 1440, NOON - timedelta(days=1), NOON + timedelta(days=3), gaps="ignore"
                )
            )
            == 2
        )


async def test_it_merges_candles_with_what_is_there(pool: asyncpg.Pool) -> None:
    store = Store(pool)
    await store.write([], [make_candle(trade_count=3)])
    await store.write([make_trade(1), make_trade(2)])
    await store.write([make_trade(n) for n in range(3, 8)])
    await store.write([], [make_candle(trade_count=9)], candle_source="csv")

    assert await pool.fetchval("SELECT source::text || trade_count FROM candles") == "csv9"
    assert await build_candles_from_trades(pool, "BTC/USDT", NOON, NOON + MINUTE) == 0


async def test_it_imports_downloads(pool: asyncpg.Pool, tmp_path: Path) -> None:
    await Store(pool).write([make_trade(1, START)])
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(n, trades=5) for n in range(3)])

    with found_files([path]) as (files, _):
        (outcome,) = [each async for each in CsvImporter(pool, no_pairs, symbol="BTC/USDT").import_files(files)]

    assert isinstance(outcome, Imported)
    assert (outcome.new_candles, outcome.replaced_candles) == (2, 1)


async def no_pairs() -> list[Pair]:
    """Nobody asks: the symbol is given."""
    return []


async def test_it_keeps_what_backfill_and_gap_filling_know(pool: asyncpg.Pool) -> None:
    await Store(pool).write([make_trade(1), make_trade(4)])
    await request_backfill(pool, "BTC/USDT", start=NOON, end=NOON + timedelta(days=1))
    await pause_backfills(pool)
    await cover(pool, "BTC/USDT", TimeRange(NOON, NOON + timedelta(hours=1)))
    holes = IdRanges([(2, 4)])
    await note_passed_over(pool, "BTC/USDT", holes, seen_at=datetime.now(UTC) - timedelta(minutes=5))

    assert await note_passed_over(pool, "BTC/USDT", holes, seen_at=datetime.now(UTC)) == holes
    assert [each.symbol for each in await list_backfills(pool)] == ["BTC/USDT"]


async def test_it_stores_external_indicators(pool: asyncpg.Pool) -> None:
    for value in ("40", "41"):
        assert await store_indicators(pool, [ExternalIndicator(NOON, "fear_greed", Decimal(value), "test")]) == 1


@hypertables_only
async def test_it_writes_into_compressed_chunks(pool: asyncpg.Pool, superuser: asyncpg.Connection) -> None:
    store = Store(pool)
    await store.write([make_trade(1, NOON)], [make_candle(NOON + MINUTE)])
    for table in ("trades", "candles"):
        await superuser.execute("SELECT compress_chunk(c) FROM show_chunks($1::text::regclass) AS c", table)

    await store.write([make_trade(2, NOON)], [make_candle(NOON + MINUTE, trade_count=8)])

    assert await pool.fetchval("SELECT array_agg(trade_count ORDER BY timestamp) FROM candles") == [2, 8]


async def test_it_drops_empties_and_makes_nothing(pool: asyncpg.Pool) -> None:
    await Store(pool).write([make_trade(1)])
    for table in ("trades", "candles", "external_indicators", "data_sync_status", "backtest_runs"):
        for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}", f"DROP TABLE {table}"):  # noqa: S608
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await pool.execute(statement)
    for statement in ("CREATE TABLE mine ()", "UPDATE trades SET price = 1", "DELETE FROM schema_migrations"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.execute(statement)


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_partitions_are_made_of_our_tables_alone(
    pool: asyncpg.Pool, superuser: asyncpg.Connection, writer_url: str
) -> None:
    """What runs with the rights of the owner must not be led to another table by a search path."""
    await superuser.execute("CREATE TABLE others (timestamp timestamptz) PARTITION BY RANGE (timestamp)")
    async with pool.acquire() as connection:
        await connection.execute("CREATE TEMPORARY TABLE partition_widths (parent text, width interval)")
        await connection.execute("INSERT INTO partition_widths VALUES ('others', '1 day'), ('trades', '1 year')")
        await connection.execute("SET search_path = pg_temp, public")

        with pytest.raises(asyncpg.PostgresError):
            await connection.execute("SELECT public.ensure_partitions('others', ARRAY[now()])")
        assert await connection.fetchval("SELECT public.ensure_partitions('trades', $1)", [NOON, NOON]) == 1

    partitions = await superuser.fetch(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'trades'::regclass"
    )
    assert [tuple(row) for row in partitions] == [("trades_20251110",)]
