"""A month of the archive has a version, which every write that changes its rows replaces, and no other write does."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest
from msgspec.structs import replace

from kraken_history.archive.manifest import Entry
from kraken_history.archive.place import Folder, read_manifest
from kraken_history.ledger import IdRanges
from kraken_history.months import Month
from kraken_history.records import MINUTE, TimeRange, floor_minute
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.archived_months import read_versions, register_months
from kraken_history.storing.candle_building import build_candles_from_trades
from kraken_history.storing.contested import settle_symbol
from kraken_history.storing.repair import correct_ledger, rebuild_minutes, remove_repeated, remove_trade
from kraken_history.storing.retention import drop_old
from kraken_history.storing.store import Store, write_within
from tests.archive.conftest import BTC, ETH, HOLE, TRADES, archived, trade
from tests.support.absent import make_absent
from tests.support.examples import make_candle

OCTOBER, NOVEMBER, DECEMBER = Month(2025, 10), Month(2025, 11), Month(2025, 12)
QUIET = datetime(2025, 12, 10, 12, tzinfo=UTC)
"""A minute of December without a trade."""


async def changed_since(pool: asyncpg.Pool, before: dict[str, dict[Month, UUID]]) -> set[tuple[str, Month]]:
    """The months with another version; ``before`` is brought up to date."""
    now = {symbol: await read_versions(pool, symbol) for symbol in before}
    changed = {
        (symbol, month) for symbol in now for month in now[symbol] if now[symbol][month] != before[symbol][month]
    }
    before.update(now)
    return changed


async def test_every_write_that_changes_rows_of_a_month_replaces_its_version(
    history: asyncpg.Pool, place: Folder
) -> None:
    await archived(history, place)
    store, versions = Store(history), {symbol: await read_versions(history, symbol) for symbol in (BTC, ETH)}
    assert all(set(each) == {OCTOBER, NOVEMBER, DECEMBER} for each in versions.values())

    await store.write([trade(HOLE.start)])
    assert await changed_since(history, versions) == {(BTC, NOVEMBER)}

    await store.write([trade(HOLE.start), TRADES[0]])
    await store.write((), [make_candle(floor_minute(TRADES[0].timestamp), trade_count=1, close="60037.1")])
    await store.write([replace(trade(1), timestamp=datetime(2026, 1, 14, tzinfo=UTC), id=200)])
    assert await changed_since(history, versions) == set(), "nothing of an archived month was changed"

    await store.write((), [make_candle(QUIET), make_candle(OCTOBER.end - MINUTE, symbol=ETH)])
    assert await changed_since(history, versions) == {(BTC, DECEMBER), (ETH, OCTOBER)}

    await store.write((), [make_candle(QUIET, trade_count=9)], candle_source="csv")
    assert await changed_since(history, versions) == {(BTC, DECEMBER)}

    # A fuller candle of the exchange stands before an own one that is not proven, until it is.
    late = trade(HOLE.stop)
    await store.write((), [make_candle(floor_minute(late.timestamp), trade_count=5)])
    assert await changed_since(history, versions) == {(BTC, NOVEMBER)}
    await store.write([trade(HOLE.stop - 1)])
    assert await changed_since(history, versions) == {(BTC, NOVEMBER)}
    assert await settle_symbol(history, BTC) == 0

    await history.execute("UPDATE candles SET close = close + 1 WHERE symbol = $1 AND timestamp < $2", BTC, OCTOBER.end)
    assert await build_candles_from_trades(history, BTC, OCTOBER.start, OCTOBER.end) > 0
    assert await changed_since(history, versions) == {(BTC, OCTOBER)}

    await history.execute("UPDATE candles SET close = close + 1 WHERE symbol = $1 AND timestamp < $2", BTC, OCTOBER.end)
    assert await rebuild_minutes(history, BTC, TimeRange(OCTOBER.start, OCTOBER.end)) > 0
    assert await changed_since(history, versions) == {(BTC, OCTOBER)}

    again = "INSERT INTO trades SELECT id, symbol, timestamp + interval '1 us', price, volume, side, order_type, misc"
    await history.execute(f"{again} FROM trades WHERE symbol = $1 AND id = 7", BTC)
    assert await remove_repeated(history, BTC, IdRanges([(7, 8)]))
    assert await changed_since(history, versions) == {(BTC, NOVEMBER)}

    assert await remove_trade(history, BTC, 33, "wrong")
    assert await changed_since(history, versions) == {(BTC, DECEMBER)}

    await refresh(history)
    await correct_ledger(history, ETH, IdRanges([(1, 2)]), [], [])
    await drop_old(history, {"trades": NOVEMBER.end, "candles": NOVEMBER.end})
    assert not await history.fetchval("SELECT EXISTS (SELECT FROM trades WHERE timestamp < $1)", NOVEMBER.start)
    assert await changed_since(history, versions) == set(), "no row was changed, though some were dropped"


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_write_that_runs_while_a_month_is_registered_is_in_its_snapshot(
    history: asyncpg.Pool, place: Folder
) -> None:
    """Otherwise it would find no version to replace, and not be in the archive either."""
    async with history.acquire() as connection, asyncio.TaskGroup() as tasks:
        transaction = connection.transaction()
        await transaction.start()
        await write_within(connection, [trade(HOLE.start)], (), candle_source="ohlc")
        registering = tasks.create_task(register_months(history, BTC, [NOVEMBER]))
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not registering.done()
            await asyncio.sleep(0.01)
        await transaction.commit()

    await archived(history, place)

    assert HOLE.start in entry_of(place, NOVEMBER).ids


def entry_of(place: Folder, month: Month, symbol: str = BTC) -> Entry:
    entry = read_manifest(place, symbol).latest(month)
    assert entry is not None
    return entry


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_changed_month_is_replaced_and_no_other(history: asyncpg.Pool, place: Folder) -> None:
    await archived(history, place)
    before = {path: place.read(path) for path in place.list()}
    await Store(history).write([trade(HOLE.start)])

    outcomes = await archived(history, place)

    assert {(each.symbol, each.month): each.state for each in outcomes if each.state != "current"} == {
        (BTC, NOVEMBER): "replaced"
    }
    changed = {path for path in place.list() if place.read(path) != before[path]}
    assert changed == {
        "manifest/symbol=BTC-USDT.json",
        "trades/symbol=BTC-USDT/month=2025-11.parquet",
        "candles_1m/symbol=BTC-USDT/month=2025-11.parquet",
    }
    assert HOLE.start in entry_of(place, NOVEMBER).ids


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_proof_without_a_new_row_changes_the_manifest_alone(history: asyncpg.Pool, place: Folder) -> None:
    await archived(history, place)
    before = entry_of(place, NOVEMBER)
    missing = IdRanges([(HOLE.start, HOLE.stop)])
    await make_absent(history, (HOLE.start, HOLE.stop), symbol=BTC)

    outcomes = await archived(history, place)

    assert [(each.month, each.state) for each in outcomes if each.state != "current"] == [(NOVEMBER, "proof")]
    now = entry_of(place, NOVEMBER)
    assert IdRanges(now.absent) == IdRanges(before.absent) | missing
    assert list(now.proven) == [(NOVEMBER.start, NOVEMBER.end)]
    assert now.objects == before.objects
