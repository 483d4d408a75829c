"""Kraken's own recording through the whole thread: socket, Redis, database."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

from consumers.consumer import Consumer
from kraken_history.completeness.holes import find_holes
from kraken_history.database.connections import create_pool
from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalTrade, utc_from_unix_ns
from kraken_history.storing.store import Store
from kraken_history.stream import wire
from kraken_history.stream.publisher import Publisher
from producers.feed import Feed
from simulator import Simulator
from tests.support.database import ledger, stored_ids, stored_trades
from tests.support.streams import STREAMS, is_settled
from tests.support.waiting import until

SYMBOL = "BTC/USDT"
FIRST_ID, LAST_ID = 10218208, 10219207
MINUTES_WITH_TRADES = 273


@pytest.fixture
def page(recordings: Path) -> Path:
    """1000 trades as REST gave them."""
    return recordings / "rest/trades_xbtusdt_2025-11-10.json"


@pytest.fixture
def kraken_candles(recordings: Path) -> dict[datetime, list[Any]]:
    """By minute, Kraken's own candles of about the same time: open, high, low, close, vwap, volume, count."""
    answer = json.loads((recordings / "rest/ohlc_xbtusdt_1m_2025-11-10.json").read_text())
    (key,) = answer["result"].keys() - {"last"}
    return {datetime.fromtimestamp(row[0], tz=UTC): [*map(Decimal, row[1:7]), row[7]] for row in answer["result"][key]}


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=3) as pool:
        yield pool


@asynccontextmanager
async def running_thread(redis_url: str, pool: asyncpg.Pool, ws_url: str) -> AsyncIterator[tuple[Feed, Consumer]]:
    """A producer and a consumer, as they run in production."""
    async with Redis.from_url(redis_url) as of_producer, Redis.from_url(redis_url) as of_consumer:
        consumer = Consumer(of_consumer, Store(pool), name="a", streams=STREAMS, batch_max_rows=100)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            consuming = group.create_task(consumer.run(stop))
            async with Publisher(of_producer) as publisher:
                feed = Feed(publisher, url=ws_url, symbols=[SYMBOL])
                feeding = group.create_task(feed.run())
                yield feed, consumer
                feeding.cancel()
            stop.set()
            await consuming


async def play(recording: Path, redis_url: str, pool: asyncpg.Pool) -> Consumer:
    """Send a recording through the thread, to its end."""
    async with (
        Simulator(recording=recording, rate=20_000, emitting=False, heartbeat_s=0.05) as kraken,
        running_thread(redis_url, pool, kraken.ws_url) as (feed, consumer),
        Redis.from_url(redis_url) as redis,
    ):
        await until(lambda: feed.connected)
        kraken.start_emitting()
        await until(lambda: consumer.new_trades + consumer.known_trades >= 1000)
        # Candles travel in a stream of their own; the last of them is the whole last minute.
        await until(lambda: is_settled(redis))
        assert await redis.xlen(wire.DEAD_LETTERS) == 0
    return consumer


def recorded_trades(page: Path) -> list[HistoricalTrade]:
    """What the recording says, without our decoder. WebSocket carries microseconds, cut; and no flags."""
    rows = json.loads(page.read_text(), parse_float=Decimal)["result"]["XBTUSDT"]
    return [
        HistoricalTrade(
            row[6],
            SYMBOL,
            utc_from_unix_ns(int(row[2] * 10**9)),
            Decimal(row[0]),
            Decimal(row[1]),
            "buy" if row[3] == "b" else "sell",
            "market" if row[4] == "m" else "limit",
        )
        for row in rows
    ]


def shifted_by(seconds: Decimal, page: Path, shifted: Path) -> Path:
    """A copy of the recording with all times moved."""
    answer = json.loads(page.read_text(), parse_float=Decimal)
    for row in answer["result"]["XBTUSDT"]:
        row[2] += seconds
    shifted.write_bytes(msgspec.json.Encoder(decimal_format="number").encode(answer))
    both = zip(recorded_trades(shifted), recorded_trades(page), strict=True)
    assert all(moved.id == trade.id and moved.timestamp != trade.timestamp for moved, trade in both)
    return shifted


async def rows_of(pool: asyncpg.Pool) -> dict[str, list[tuple[Any, ...]]]:
    """All rows with the transaction that wrote them; of the sync status, what it says but for when."""
    return {
        "trades": [tuple(row) for row in await pool.fetch("SELECT xmin::text, * FROM trades ORDER BY id")],
        "candles": [tuple(row) for row in await pool.fetch("SELECT xmin::text, * FROM candles ORDER BY timestamp")],
        "ledger": [
            tuple(row)
            for row in await pool.fetch(
                "SELECT symbol, data_type, oldest_timestamp, newest_timestamp, total_records, held_ids(symbol),"
                " absent_within(symbol, 0, 9223372036854775807), time_ranges"
                " FROM data_sync_status ORDER BY symbol, data_type"
            )
        ],
    }


async def test_every_trade_of_the_recording_is_stored_once_as_it_was(
    page: Path, redis_url: str, pool: asyncpg.Pool
) -> None:
    await play(page, redis_url, pool)

    assert await stored_ids(pool) == list(range(FIRST_ID, LAST_ID + 1))
    assert await stored_trades(pool) == recorded_trades(page)
    assert await ledger(pool) == {SYMBOL: IdRanges([(FIRST_ID, LAST_ID + 1)])}
    assert await find_holes(pool) == {}


async def test_the_candles_are_krakens_own_in_all_273_minutes_that_have_trades(
    page: Path, kraken_candles: dict[datetime, list[Any]], redis_url: str, pool: asyncpg.Pool
) -> None:
    await play(page, redis_url, pool)
    ours = {
        row["timestamp"]: row
        for row in await pool.fetch("SELECT * FROM candles WHERE symbol = $1 AND source = 'trades'", SYMBOL)
    }
    price_decimals = Decimal("0.1")

    # The recording begins with the second trade of its first minute, which is therefore not Kraken's.
    del ours[min(ours)]
    shared = {minute: theirs for minute, theirs in kraken_candles.items() if theirs[6] and minute in ours}
    assert len(shared) == MINUTES_WITH_TRADES
    for minute, (open_, high, low, close, vwap, volume, count) in shared.items():
        row = ours[minute]
        assert (row["open"], row["high"], row["low"], row["close"]) == (open_, high, low, close), minute
        assert (row["volume"], row["trade_count"]) == (volume, count), minute
        assert row["vwap"].quantize(price_decimals, ROUND_DOWN) == vwap, minute


async def test_the_same_recording_a_second_time_changes_no_row(page: Path, redis_url: str, pool: asyncpg.Pool) -> None:
    await play(page, redis_url, pool)
    before = await rows_of(pool)
    again = await play(page, redis_url, pool)

    assert (again.new_trades, again.known_trades) == (0, 1000)
    assert await rows_of(pool) == before


@pytest.mark.parametrize("shift", [Decimal("0.000001"), Decimal("-0.000001")])
async def test_the_same_trades_with_times_a_microsecond_off_change_no_row(
    page: Path, redis_url: str, pool: asyncpg.Pool, tmp_path: Path, shift: Decimal
) -> None:
    await play(page, redis_url, pool)
    before = await rows_of(pool)
    again = await play(shifted_by(shift, page, tmp_path / "shifted.json"), redis_url, pool)

    assert (again.new_trades, again.known_trades) == (0, 1000)
    assert await rows_of(pool) == before
