"""Replays against the trades that were stored: whatever the page, each record once and in order."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import TypeVar

import asyncpg
import pytest

from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.database import Database
from kraken_history.reading.pages import Pages
from kraken_history.reading.replay import CandlePages
from kraken_history.reading.trades import TradePages, read_trades
from kraken_history.records import Record
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.store import Store
from tests.replay.history import DAY, HOUR, MINUTE, MONDAY, assert_made_of, dense, opens, sparse, within
from tests.support.examples import make_candle, make_trade

T = TypeVar("T")

LONG_AGO, FAR_AHEAD = MONDAY - 3000 * DAY, MONDAY + 3000 * DAY


async def listed(records: AsyncIterator[T]) -> list[T]:
    return [record async for record in records]


async def read_all(pages: Pages[Record]) -> tuple[list[Record], list[int]]:
    """All records, and how many each page held."""
    found: list[Record] = []
    sizes: list[int] = []
    while page := await pages.read():
        found += page
        sizes.append(len(page))
    return found, sizes


@pytest.fixture
async def database(migrated_database_url: str) -> AsyncIterator[Database]:
    opened = Database(migrated_database_url, 1, 1)
    await opened.open()
    yield opened
    await opened.close()


@pytest.mark.parametrize("is_refreshed", [False, True])
async def test_every_interval_of_every_symbol_is_replayed_whole(
    store: Store, pool: asyncpg.Pool, database: Database, is_refreshed: bool
) -> None:
    trades = {"BTC/USDT": dense(minutes=200), "XRP/BTC": sparse()}
    for each in trades.values():
        await store.write(each)
    if is_refreshed:
        await refresh(pool, now=MONDAY + 500 * DAY)
    for symbol, made_of in trades.items():
        for interval, rows in ((1, 50), (1, 4096), (45, 3), (60, 4096), (10080, 7)):
            width = timedelta(minutes=interval)
            start, end = MONDAY - 200 * width, MONDAY + 400 * DAY
            end -= (end - MONDAY) % width

            candles, sizes = await read_all(CandlePages(database, symbol, interval, (start, end), rows))

            assert [c.timestamp for c in candles] == opens(made_of, interval, start, end), (symbol, interval)
            assert max(sizes) <= rows
            assert_made_of(candles, made_of)


async def test_trades_of_one_instant_are_cut_by_pages_without_loss(store: Store, database: Database) -> None:
    trades = [make_trade(id_, MONDAY + (id_ // 8) * HOUR) for id_ in range(40)]
    await store.write([*reversed(trades), *dense("ETH/USDT", 60)])

    for rows in (1, 2, 5, 8, 1000):
        found, sizes = await read_all(TradePages(database, "BTC/USDT", (MONDAY, MONDAY + 5 * HOUR), rows))

        assert found == trades
        assert max(sizes) <= rows


@pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)
async def test_compressed_chunks_are_paged_with_what_came_late(
    store: Store, pool: asyncpg.Pool, database: Database
) -> None:
    trades = [make_trade(id_, MONDAY + (id_ // 8) * HOUR) for id_ in range(40)]
    await store.write([trade for trade in trades if trade.id % 5])
    await pool.execute("SELECT compress_chunk(chunk) FROM show_chunks('trades') AS chunk")
    await store.write([trade for trade in trades if not trade.id % 5])

    for rows in (1, 5, 1000):
        found, _ = await read_all(TradePages(database, "BTC/USDT", (MONDAY, MONDAY + 5 * HOUR), rows))

        assert found == trades


class CountedDatabase(Database):
    """Counts its queries."""

    queries = 0

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        self.queries += 1
        return await super().fetch(query, *arguments)


async def test_what_is_sparse_takes_few_queries(store: Store, migrated_database_url: str) -> None:
    """Sixteen years are asked for, of which two hold a candle of a minute now and then."""
    await store.write(sparse())
    database = CountedDatabase(migrated_database_url, 1, 1)
    await database.open()

    await read_all(CandlePages(database, "XRP/BTC", 1, (LONG_AGO, FAR_AHEAD)))
    for_candles, database.queries = database.queries, 0
    found, _ = await read_all(TradePages(database, "XRP/BTC", (LONG_AGO, FAR_AHEAD)))
    for_trades, database.queries = database.queries, 0
    [one] = await read_trades(database, "XRP/BTC", MONDAY - 690 * DAY, FAR_AHEAD, 1)
    await database.close()

    assert found == sparse()
    assert one == sparse()[1]
    assert for_candles < 40
    assert for_trades < 60
    assert database.queries < 40


async def test_a_replay_is_what_a_list_is(store: Store, provider: HistoricalDataProvider) -> None:
    await store.write(dense())
    start, end = MONDAY + timedelta(seconds=90), MONDAY + 7 * HOUR + timedelta(seconds=30)

    candles = await listed(provider.replay_candles("BTC/USDT", 5, start, end, 0, gaps="ignore"))
    trades = await listed(provider.replay_trades("BTC/USDT", start, end, 0, gaps="ignore"))

    assert candles == await provider.get_candles("BTC/USDT", 5, start, end, gaps="ignore")
    assert (candles[0].timestamp, candles[-1].timestamp) == (MONDAY + 5 * MINUTE, MONDAY + 6 * HOUR + 55 * MINUTE)
    assert trades == within(dense(), start, end)


async def test_what_is_stored_meanwhile_ahead_is_replayed(store: Store, provider: HistoricalDataProvider) -> None:
    await store.write(dense(minutes=60))
    replay = provider.replay_candles("BTC/USDT", 1, MONDAY, MONDAY + 400 * DAY, 0, gaps="ignore")

    first = await anext(replay)
    await store.write([make_trade(10_000, MONDAY + 300 * DAY)])
    rest = await listed(replay)

    assert first.timestamp == MONDAY
    assert rest[-1].timestamp == MONDAY + 300 * DAY


async def test_a_limit_keeps_the_oldest_trades(store: Store, provider: HistoricalDataProvider) -> None:
    await store.write([*sparse(), *dense()])
    end = MONDAY + 202 * DAY

    for limit in (None, 1, 39, 40, 41):
        found = await provider.get_trades("XRP/BTC", LONG_AGO, end, limit, gaps="ignore")

        assert found == within(sparse(), LONG_AGO, end)[:limit]


async def test_trades_begin_at_the_start_and_end_before_the_end(store: Store, provider: HistoricalDataProvider) -> None:
    await store.write([make_trade(id_, MONDAY + id_ * HOUR) for id_ in range(4)])

    found = await provider.get_trades("BTC/USDT", MONDAY + HOUR, MONDAY + 3 * HOUR, gaps="ignore")

    assert [trade.id for trade in found] == [1, 2]


async def test_a_symbol_with_candles_only_has_no_trades(store: Store, provider: HistoricalDataProvider) -> None:
    await store.write((), [make_candle(MONDAY)])

    assert await provider.get_trades("BTC/USDT", MONDAY, MONDAY + DAY, gaps="ignore") == []
    assert len(await listed(provider.replay_candles("BTC/USDT", 1, MONDAY, MONDAY + DAY, 0, gaps="ignore"))) == 1


async def test_stopping_early_leaves_no_task_and_no_connection(
    store: Store, provider: HistoricalDataProvider, pool: asyncpg.Pool
) -> None:
    await store.write(dense())
    tasks = asyncio.all_tasks()
    end = MONDAY + DAY

    replays: list[AsyncIterator[object]] = [
        provider.replay_candles("BTC/USDT", 1, MONDAY, end, 0, gaps="ignore"),
        provider.replay_trades("BTC/USDT", MONDAY, end, 0, gaps="ignore"),
        provider.replay(["BTC/USDT"], [1, 5], MONDAY, end, 0, with_trades=True, gaps="ignore"),
    ]
    for replay in replays:
        await anext(replay)
        # The only connection is free in the middle of a replay, and no transaction is open on it.
        assert await provider.get_symbols() == ["BTC/USDT"]
        assert not await pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
        )
    for replay in replays:
        await replay.aclose()  # type: ignore[attr-defined]

    assert asyncio.all_tasks() == tasks


async def test_a_broken_loop_closes_with_its_scope(store: Store, provider: HistoricalDataProvider) -> None:
    await store.write(dense())

    async with aclosing(provider.replay_candles("BTC/USDT", 1, MONDAY, MONDAY + DAY, 0, gaps="ignore")) as replay:
        async for _ in replay:
            break

    assert await listed(replay) == []


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_memory_does_not_grow_with_the_range(pool: asyncpg.Pool, provider: HistoricalDataProvider) -> None:
    """Of 20,000 candles, at about a kilobyte each, a page or two are held."""
    await fill(pool, minutes=20_000)
    replay = provider.replay_candles("BTC/USDT", 1, MONDAY, MONDAY + 20 * DAY, 0, gaps="ignore")
    count = 1
    first = await anext(replay)

    tracemalloc.start()
    async for _ in replay:
        count += 1
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert first.timestamp == MONDAY
    assert count == 20_000
    assert most < 12_000_000


async def fill(pool: asyncpg.Pool, minutes: int) -> None:
    """A candle a minute from Monday on, written past the store."""
    moments: list[datetime] = [MONDAY + n * DAY for n in range(minutes // 1440 + 1)]
    await pool.execute("SELECT ensure_partitions('candles', $1)", moments)
    await pool.execute(
        """
        INSERT INTO candles (symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume,
                             trade_count, vwap, source)
        SELECT 'BTC/USDT', $1::timestamptz + n * interval '1 minute', 1, 50000.1, 50000.3, 49999.9, 50000.2,
               1.23456789, 61728.39451234, 5, 50000.1234567891, 'ohlc'
        FROM generate_series(0, $2 - 1) AS n
        """,
        MONDAY,
        minutes,
    )
    await pool.execute(
        """
        INSERT INTO data_sync_status (symbol, data_type, oldest_timestamp, newest_timestamp, total_records)
        SELECT 'BTC/USDT', 'candles_1m', min(timestamp), max(timestamp), count(*) FROM candles
        """
    )
