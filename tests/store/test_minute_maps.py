"""The maps of the minutes with candles: whatever is written afterwards, each kept one is that of its candles."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from kraken_history.cli.repairing import repair
from kraken_history.completeness.minute_maps import FULL, MinuteMap, find_wrong_maps, read_maps
from kraken_history.csv_import import CsvImporter, Imported, found_files
from kraken_history.intervals import EARLIEST, LATEST, bucket_start
from kraken_history.reading.verification import verify
from kraken_history.records import MINUTE, TimeRange
from kraken_history.storing.candle_building import build_candles_from_trades
from kraken_history.storing.candle_changes import note_candles
from kraken_history.storing.ledger_writing import lock_symbol
from kraken_history.storing.map_building import build_missing_maps, remove_wrong_maps
from kraken_history.storing.repair import rebuild_minutes, remove_trade
from kraken_history.storing.retention import drop_old
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair
from tests.support.csv_files import START, candle_line, write
from tests.support.examples import NOON, make_candle, make_trade

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
FIRST = bucket_start(NOON, DAY)
LATER = NOON + 30 * DAY
SYMBOL = "BTC/USDT"


@pytest.fixture
async def days(pool: asyncpg.Pool, store: Store) -> list[datetime]:
    """Ten days with a trade at noon and a candle of each other source, and no two ids in a row; all mapped."""
    found = [FIRST + n * DAY for n in range(10)]
    await store.write([make_trade(2 * n + 1, day + 12 * HOUR) for n, day in enumerate(found)])
    await store.write(candles=[make_candle(day + 13 * HOUR) for day in found])
    await store.write(candles=[make_candle(day + 14 * HOUR) for day in found], candle_source="csv")
    await build_missing_maps(pool, now=LATER)
    assert await mapped(pool) == found
    return found


async def mapped(pool: asyncpg.Pool) -> list[datetime]:
    return [row["day"] for row in await pool.fetch("SELECT day FROM minute_maps WHERE symbol = $1 ORDER BY 1", SYMBOL)]


async def wrong(pool: asyncpg.Pool) -> list[tuple[str, datetime]]:
    async with pool.acquire() as connection:
        return await find_wrong_maps(connection, None, (EARLIEST, LATEST))


async def new_trade(pool: asyncpg.Pool, day: datetime, _: Path) -> None:
    await Store(pool).write([make_trade(900, day + 15 * HOUR)])


async def trade_over_the_exchanges_candle(pool: asyncpg.Pool, day: datetime, _: Path) -> None:
    at = day + 13 * HOUR
    await Store(pool).write([make_trade(n, at) for n in range(900, 910)])


async def candle_of_the_exchange(pool: asyncpg.Pool, day: datetime, _: Path) -> None:
    await Store(pool).write(candles=[make_candle(day)])


async def fuller_candle_over_trades(pool: asyncpg.Pool, day: datetime, _: Path) -> None:
    await Store(pool).write(candles=[make_candle(day + 12 * HOUR, trade_count=9)])


async def own_candle_put_back(pool: asyncpg.Pool, day: datetime, _: Path) -> None:
    """The ids beside the trade come, of the days before and after, and prove the minute."""
    await Store(pool).write(candles=[make_candle(day + 12 * HOUR, trade_count=9)])
    await build_missing_maps(pool, now=LATER)
    await Store(pool).write([make_trade(8, day - 11 * HOUR), make_trade(10, day + 35 * HOUR)])
    source = await pool.fetchval("SELECT source::text FROM candles WHERE timestamp = $1", day + 12 * HOUR)
    assert source == "trades"


async def download(pool: asyncpg.Pool, day: datetime, folder: Path) -> None:
    first = (day - START) // MINUTE
    write(folder / "XBTUSDT_1.csv", [candle_line(first + n) for n in range(30)])
    with found_files([folder]) as (files, _):
        (outcome,) = [each async for each in CsvImporter(pool, no_pairs, symbol=SYMBOL).import_files(files)]
    assert isinstance(outcome, Imported)


async def no_pairs() -> list[Pair]:
    """Nobody asks: the symbol is given."""
    return []


async def build_by_hand(pool: asyncpg.Pool, day: datetime, _: Path) -> None:
    await pool.execute("INSERT INTO trades VALUES (950, $1, $2, 99, 1, 'buy', 'limit', '')", SYMBOL, day + MINUTE)
    assert await build_candles_from_trades(pool, SYMBOL, day, day + DAY)


async def repair_minutes(pool: asyncpg.Pool, day: datetime, _: Path) -> None:
    await pool.execute("INSERT INTO trades VALUES (950, $1, $2, 99, 1, 'buy', 'limit', '')", SYMBOL, day + MINUTE)
    assert await rebuild_minutes(pool, SYMBOL, TimeRange(day, day + DAY)) == 1


async def trade_removed(pool: asyncpg.Pool, day: datetime, _: Path) -> None:
    id_ = await pool.fetchval("SELECT id FROM trades WHERE timestamp = $1", day + 12 * HOUR)
    assert await remove_trade(pool, SYMBOL, id_, "wrong")


async def retention(pool: asyncpg.Pool, day: datetime, _: Path) -> None:
    assert (await drop_old(pool, {"candles": day + 8 * DAY}, now=LATER))["candles"]


WRITERS: dict[str, Callable[[asyncpg.Pool, datetime, Path], Awaitable[None]]] = {
    "a new trade": new_trade,
    "trades over the exchange's candle": trade_over_the_exchanges_candle,
    "a candle of the exchange": candle_of_the_exchange,
    "a fuller candle over trades": fuller_candle_over_trades,
    "the own candle put back": own_candle_put_back,
    "a download": download,
    "candles built from trades": build_by_hand,
    "a repair": repair_minutes,
    "a removed trade": trade_removed,
    "retention": retention,
}


CHANGES = {"the own candle put back": (3, 4, 5), "retention": tuple(range(10))}
"""Numbers of the days that a writer changes, if not only the fifth; of retention, those that it may drop."""


@pytest.mark.parametrize("writer", WRITERS)
async def test_no_writer_leaves_a_wrong_map(
    pool: asyncpg.Pool, days: list[datetime], tmp_path: Path, writer: str
) -> None:
    await WRITERS[writer](pool, days[4], tmp_path)

    deleted = set(days).difference(await mapped(pool))
    changed = {days[n] for n in CHANGES.get(writer, (4,))}
    assert await wrong(pool) == []
    assert deleted == changed or (writer == "retention" and deleted and deleted <= changed)
    await build_missing_maps(pool, now=LATER)
    assert await wrong(pool) == []


async def test_a_map_that_differs_is_found_and_repaired(pool: asyncpg.Pool, days: list[datetime]) -> None:
    await pool.execute("UPDATE minute_maps SET sent = B'1' WHERE day = $1", days[2])
    await pool.execute("UPDATE minute_maps SET built = NULL WHERE day = $1", days[7])
    assert await wrong(pool) == [(SYMBOL, days[2]), (SYMBOL, days[7])]

    async with pool.acquire() as connection:
        found = await verify(connection)
    assert [(each.what, each.start, each.end) for each in found.differences if each.what == "map_differs"] == [
        ("map_differs", day, day + DAY) for day in (days[2], days[7])
    ]
    await repair(pool, found, None, None, None)

    assert set(days).difference(await mapped(pool)) == {days[2], days[7]}
    assert await wrong(pool) == []


async def test_maps_of_every_minute_and_of_none_are_short(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(candles=[make_candle(FIRST + n * MINUTE) for n in range(1440)])
    await store.write(candles=[make_candle(FIRST + 2 * DAY)])

    assert await build_missing_maps(pool, now=FIRST + 3 * DAY + HOUR) == 3

    rows = await pool.fetch("SELECT built, sent, imported FROM minute_maps ORDER BY day")
    assert [row["sent"] and len(row["sent"]) for row in rows] == [1, None, 1440]
    assert not any(row["built"] or row["imported"] for row in rows)
    async with pool.acquire() as connection:
        maps = await read_maps(connection, SYMBOL, (FIRST, FIRST + 3 * DAY))
    assert maps == {
        FIRST: MinuteMap(sent=FULL), FIRST + DAY: MinuteMap(), FIRST + 2 * DAY: MinuteMap(sent=1 << 1439)
    }  # fmt: skip


async def test_a_day_gets_its_map_an_hour_after_its_end(pool: asyncpg.Pool, store: Store) -> None:
    await store.write([make_trade(1), make_trade(2, NOON + DAY)])

    assert await build_missing_maps(pool, now=FIRST + DAY + HOUR - MINUTE) == 0
    assert await build_missing_maps(pool, now=FIRST + DAY + HOUR) == 1
    assert await build_missing_maps(pool, now=FIRST + DAY + HOUR) == 0
    assert await mapped(pool) == [FIRST]


async def test_a_symbol_that_is_locked_is_left_to_the_next_call(pool: asyncpg.Pool, days: list[datetime]) -> None:
    await remove_wrong_maps(pool, SYMBOL, days[:3])
    async with pool.acquire() as connection, connection.transaction():
        await lock_symbol(connection, SYMBOL)
        assert await build_missing_maps(pool, now=LATER) == 0

    assert await build_missing_maps(pool, now=LATER, most_days=2) == 2
    assert await mapped(pool) == days[1:]
    assert await build_missing_maps(pool, now=LATER) == 1


async def test_a_write_that_waits_for_the_making_of_a_map_deletes_it(pool: asyncpg.Pool, days: list[datetime]) -> None:
    """A download copies its candles before it has the symbol's lock: the map of that moment lacks them."""
    await remove_wrong_maps(pool, SYMBOL, days[4:5])
    at = days[4] + 20 * HOUR
    async with pool.acquire() as writer, writer.transaction():
        await writer.execute(
            "INSERT INTO candles (symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume,"
            " trade_count, vwap, source) VALUES ($1, $2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 'csv')",
            SYMBOL,
            at,
        )
        assert await build_missing_maps(pool, now=LATER) == 1
        await lock_symbol(writer, SYMBOL)
        await note_candles(writer, {SYMBOL: (at, at)}, {SYMBOL: 1}, {SYMBOL: [TimeRange(at, at + HOUR)]})

    assert days[4] not in await mapped(pool)
    assert await wrong(pool) == []
