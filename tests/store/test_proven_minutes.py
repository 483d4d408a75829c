"""Where the ledger proves a minute complete, its own candle stands, whatever number of trades another one claims."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from kraken_history.completeness.covered_time import cover
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import MINUTE, CandleSource, HistoricalTrade, TimeRange
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.candle_building import build_candles_from_trades
from kraken_history.storing.candle_deltas import build_candles
from kraken_history.storing.contested import settle_some, settle_symbol
from kraken_history.storing.ledger_writing import lock_symbol
from kraken_history.storing.longer_intervals import AGGREGATES, Aggregate
from kraken_history.storing.materialized import ContinuousKeeper, TableKeeper
from kraken_history.storing.repair import replace_longer
from kraken_history.storing.retention import drop_old
from kraken_history.storing.store import Store
from tests.aggregates.truth import assert_right, shown
from tests.support.absent import make_absent
from tests.support.contents import stored_candles
from tests.support.examples import NOON, make_candle, make_trade

CONTESTED = NOON + MINUTE
BEFORE, INSIDE, AFTER = make_trade(1), make_trade(2, CONTESTED + MINUTE / 2), make_trade(3, CONTESTED + 5 * MINUTE)
TOO_FULL = make_candle(CONTESTED, trade_count=9)
OWN = build_candles([INSIDE])[0]


async def standing(pool: asyncpg.Pool) -> tuple[CandleSource | str, int]:
    """Source and number of trades of the contested minute's candle."""
    row = await pool.fetchrow("SELECT source::text, trade_count FROM candles WHERE timestamp = $1", CONTESTED)
    assert row is not None
    return row["source"], row["trade_count"]


async def contested(pool: asyncpg.Pool) -> int:
    count: int = await pool.fetchval("SELECT count(*) FROM contested_minutes")
    return count


async def test_a_candle_that_comes_after_the_proof_is_not_stored(store: Store, pool: asyncpg.Pool) -> None:
    await store.write([BEFORE, INSIDE, AFTER])
    before = await stored_candles(pool)

    await store.write(candles=[TOO_FULL])
    await store.write(candles=[TOO_FULL], candle_source="csv")

    assert await stored_candles(pool) == before
    assert await contested(pool) == 0


@pytest.mark.parametrize("source", ["ohlc", "csv"])
async def test_a_candle_that_came_before_the_proof_gives_way(
    store: Store, pool: asyncpg.Pool, source: CandleSource
) -> None:
    await store.write([BEFORE, INSIDE])
    await store.write(candles=[TOO_FULL], candle_source=source)
    assert await standing(pool) == (source, 9)

    await store.write([AFTER])

    assert await standing(pool) == ("trades", 1)
    assert [row.candle for row in await stored_candles(pool)] == build_candles([BEFORE, INSIDE, AFTER])
    assert await contested(pool) == 0


async def test_a_candle_gives_way_to_trades_that_come_with_their_proof(store: Store, pool: asyncpg.Pool) -> None:
    await store.write(candles=[TOO_FULL])

    await store.write([BEFORE, INSIDE, AFTER])

    assert await standing(pool) == ("trades", 1)


@pytest.mark.parametrize("last", [2, 3, 4])
async def test_the_proof_is_the_last_missing_id_wherever_it_belongs(
    store: Store, pool: asyncpg.Pool, last: int
) -> None:
    """The hole borders on the contested minute; its trade may be made long after it, or inside it."""
    trades = [
        make_trade(1),
        make_trade(2, CONTESTED),
        make_trade(3, CONTESTED + MINUTE / 3),
        make_trade(4, NOON + timedelta(hours=7)),
        make_trade(5, NOON + timedelta(hours=9)),
    ]
    healed = next(trade for trade in trades if trade.id == last)
    await store.write([trade for trade in trades if trade is not healed])
    await store.write(candles=[TOO_FULL])
    assert await standing(pool) == ("ohlc", 9)

    await store.write([healed])

    assert await standing(pool) == ("trades", 2)


async def test_the_proof_may_be_that_an_id_is_absent(store: Store, pool: asyncpg.Pool) -> None:
    await store.write([BEFORE, make_trade(2, CONTESTED), make_trade(4, CONTESTED + 5 * MINUTE)])
    await store.write(candles=[TOO_FULL])
    await make_absent(pool, (3, 4))

    assert await settle_symbol(pool, "BTC/USDT") == 1
    assert await standing(pool) == ("trades", 1)


async def test_the_proof_may_be_a_page_that_covers_time(store: Store, pool: asyncpg.Pool) -> None:
    await store.write([INSIDE])
    await store.write(candles=[TOO_FULL])
    await cover(pool, "BTC/USDT", TimeRange(NOON, NOON + timedelta(hours=1)))

    assert await settle_symbol(pool, "BTC/USDT") == 1
    assert await standing(pool) == ("trades", 1)


async def test_the_instant_of_the_oldest_trade_is_proven_by_a_page_only(store: Store, pool: asyncpg.Pool) -> None:
    """An earlier trade may share it."""
    await store.write([make_trade(2, CONTESTED), AFTER])
    await store.write(candles=[TOO_FULL])
    assert await standing(pool) == ("ohlc", 9)

    await cover(pool, "BTC/USDT", TimeRange(NOON, AFTER.timestamp))
    assert await settle_some(pool) == ""

    assert await standing(pool) == ("trades", 1)


async def test_of_many_symbols_some_are_settled_each_time(
    store: Store, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kraken_history.storing.contested._MOST_SYMBOLS", 2)
    symbols = ["ADA/USD", "BTC/USDT", "ETH/USD", "SOL/USD", "XRP/USD"]
    await store.write([make_trade(2, CONTESTED, symbol=symbol) for symbol in symbols])
    await store.write(candles=[make_candle(CONTESTED, trade_count=9, symbol=symbol) for symbol in symbols])
    for symbol in symbols:
        await cover(pool, symbol, TimeRange(NOON, NOON + timedelta(hours=1)))

    after, left = "", []
    for _ in range(3):
        after = await settle_some(pool, after)
        left.append((after, await contested(pool)))

    assert left == [("BTC/USDT", 3), ("SOL/USD", 1), ("", 0)]


async def test_without_a_proof_the_fuller_candle_stays(store: Store, pool: asyncpg.Pool) -> None:
    await store.write([BEFORE, INSIDE, make_trade(4, AFTER.timestamp)])
    await store.write(candles=[TOO_FULL])

    assert await settle_symbol(pool, "BTC/USDT") == 0
    assert await standing(pool) == ("ohlc", 9)
    assert await contested(pool) == 1


async def test_a_candle_without_stored_trades_stays(store: Store, pool: asyncpg.Pool) -> None:
    """There is no own candle; if retention dropped the trades, the other one is all that is left."""
    await store.write([BEFORE, INSIDE])
    await store.write(candles=[TOO_FULL])
    await pool.execute("DELETE FROM trades WHERE id = 2")

    await store.write([AFTER])

    assert await standing(pool) == ("ohlc", 9)


async def test_a_rebuild_puts_the_own_candle_into_a_proven_minute(store: Store, pool: asyncpg.Pool) -> None:
    await store.write([BEFORE, INSIDE, AFTER])
    await pool.execute(
        "UPDATE candles SET source = 'ohlc', trade_count = 9, first_trade_id = NULL WHERE timestamp = $1", CONTESTED
    )

    assert await build_candles_from_trades(pool, "BTC/USDT", NOON, NOON + timedelta(hours=1)) == 1
    assert await standing(pool) == ("trades", 1)


async def corrected_history(store: Store, pool: asyncpg.Pool) -> Sequence[HistoricalTrade]:
    """Refreshed while the contested candle stood, and proven afterwards."""
    trades = [BEFORE, INSIDE, AFTER]
    await store.write([BEFORE, INSIDE])
    await store.write(candles=[TOO_FULL])
    await refresh(pool, now=NOON + timedelta(days=14))
    assert {row[7] for row in (await shown(pool, AGGREGATES[6])).values()} == {"10"}
    await store.write([AFTER])
    return trades


async def test_longer_candles_follow_though_they_have_fewer_trades_than_before(
    store: Store, pool: asyncpg.Pool, migrated_database_url: str
) -> None:
    """A refresh takes fewer trades for lost rows, and a read of stale time takes the fuller candle."""
    await corrected_history(store, pool)

    async with HistoricalDataProvider(migrated_database_url, 1, 1) as provider:
        day = NOON.replace(hour=0)
        for interval in (5, 60, 240, 720, 1440):
            candles = await provider.get_candles("BTC/USDT", interval, day, day + timedelta(days=1), gaps="ignore")
            assert sum(candle.trade_count for candle in candles) == 3, interval
            assert {candle.source for candle in candles} == {"trades"}, interval
    await refresh(pool, now=NOON + timedelta(days=14))

    await assert_right(pool)
    assert await pool.fetchval("SELECT count(*) FROM corrected_minutes") == 0


@pytest.mark.parametrize("keeper", [TableKeeper, ContinuousKeeper])
@pytest.mark.parametrize("before", ["candles_5m", "candles_4h", "candles_1d"])
@pytest.mark.parametrize("marked", [CONTESTED + MINUTE, NOON - timedelta(hours=1)])
async def test_a_minute_that_is_corrected_during_a_refresh_is_left_to_the_next_one(
    store: Store,
    pool: asyncpg.Pool,
    monkeypatch: pytest.MonkeyPatch,
    keeper: type[TableKeeper] | type[ContinuousKeeper],
    before: str,
    marked: datetime,
) -> None:
    """If a refresh counted it as done, the day, made of hours that are not corrected yet, would keep its old values."""
    await store.write([BEFORE, INSIDE])
    await store.write(candles=[TOO_FULL])
    await refresh(pool, now=NOON + timedelta(days=14))
    refresh_window = keeper.refresh

    async def correct_first(self: Any, aggregate: Aggregate, window: TimeRange) -> int:
        if aggregate.view == before:
            await store.write([AFTER])
        return await refresh_window(self, aggregate, window)

    monkeypatch.setattr(keeper, "refresh", correct_first)
    await store.write(candles=[make_candle(marked, symbol="ETH/USDT")])
    await refresh(pool, now=NOON + timedelta(days=14))
    await store.write([AFTER])  # on the other kind of server
    await refresh(pool, now=NOON + timedelta(days=14))

    await assert_right(pool)


async def test_a_corrected_minute_of_a_locked_symbol_is_left_to_the_next_refresh(
    store: Store, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hour is not refreshed, but its day is, for another symbol. Counted as done, the day would stay wrong."""
    monkeypatch.setattr("kraken_history.storing.stale_time._LOCK_TIMEOUT_MS", 50)
    await corrected_history(store, pool)
    await store.write(candles=[make_candle(NOON - timedelta(hours=1), symbol="ETH/USDT")])
    async with pool.acquire() as writer, writer.transaction():
        await lock_symbol(writer, "BTC/USDT")
        await refresh(pool, now=NOON + timedelta(days=14))
        assert await pool.fetchval("SELECT count(*) FROM corrected_minutes") == len(AGGREGATES)

    await refresh(pool, now=NOON + timedelta(days=14))

    await assert_right(pool)
    assert await pool.fetchval("SELECT count(*) FROM corrected_minutes") == 0


async def test_the_allowance_hides_no_lost_rows(store: Store, pool: asyncpg.Pool) -> None:
    """Other minutes of the hour are gone as well: its candle is kept, though it may have eight trades less."""
    many = [make_trade(10 + n, NOON + timedelta(minutes=40, seconds=10 * n)) for n in range(50)]
    await store.write([BEFORE, INSIDE, *[make_trade(t.id - 7, t.timestamp) for t in many]])
    for table in ("data_sync_status", "sync_keys"):
        await pool.execute(f"DELETE FROM {table} WHERE data_type = 'trades'")  # noqa: S608 — ours
    await store.write(candles=[TOO_FULL])
    await refresh(pool, now=NOON + timedelta(days=14))
    before = {view.view: await shown(pool, view) for view in AGGREGATES}
    await pool.execute("DELETE FROM candles WHERE timestamp > $1", NOON + timedelta(minutes=30))
    await pool.execute(
        "UPDATE data_sync_status SET time_ranges = '{[2025-01-01, 2026-01-01)}' WHERE data_type = 'trades'"
    )

    assert await settle_some(pool) == ""
    await refresh(pool, now=NOON + timedelta(days=14))

    assert await standing(pool) == ("trades", 1)
    assert await shown(pool, AGGREGATES[6]) == before["candles_1d"]
    hours = await shown(pool, AGGREGATES[3])
    assert {at.hour: row[7] for (_, at), row in hours.items()} == {12: "60"}


@pytest.mark.parametrize("is_marked", [False, True])
async def test_a_replaced_candle_keeps_an_allowance_only_if_a_refresh_still_needs_it(
    store: Store, pool: asyncpg.Pool, *, is_marked: bool
) -> None:
    await corrected_history(store, pool)
    if not is_marked:
        await pool.execute("DELETE FROM stale_hours")
    hour = TimeRange(NOON, NOON + timedelta(hours=1))

    await replace_longer(pool, [(AGGREGATES[3], "BTC/USDT", hour)], {})
    left = {row["name"] for row in await pool.fetch("SELECT name FROM corrected_minutes")}
    await refresh(pool, within=hour, now=NOON + timedelta(days=14))

    assert left == {each.view for each in AGGREGATES if is_marked or each != AGGREGATES[3]}
    if is_marked:
        await assert_right(pool)
    assert await pool.fetchval("SELECT count(*) FROM corrected_minutes") == 0


async def test_ids_may_contradict_the_times_of_their_trades(store: Store, pool: asyncpg.Pool) -> None:
    """Then holes lie between the trades around them, in whichever order these are, and nothing there is proven."""
    await store.write([make_trade(9), make_trade(5, CONTESTED), make_trade(1, CONTESTED + 5 * MINUTE)])

    await store.write(candles=[TOO_FULL])
    await store.write([make_trade(20, CONTESTED + MINUTE)])

    assert await standing(pool) == ("ohlc", 9)
    assert await contested(pool) == 1


async def test_retention_waits_for_the_longer_candles(store: Store, pool: asyncpg.Pool) -> None:
    await corrected_history(store, pool)

    await drop_old(pool, {"candles": NOON + timedelta(days=14)}, now=NOON + timedelta(days=14))

    assert {row[7] for row in (await shown(pool, AGGREGATES[6])).values()} == {"3"}
