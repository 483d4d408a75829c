"""Candles built from trades, the exchange's own, and which of them stands in the end."""

from datetime import timedelta
from decimal import Decimal

import asyncpg
import pytest

from kraken_history.records import HistoricalCandle, HistoricalTrade
from kraken_history.storing.candle_deltas import build_candles
from kraken_history.storing.store import Store
from tests.support.contents import everything, only_candle, stale_hours, stored_candles, sync_status
from tests.support.examples import NOON, make_candle, make_trade

FOUR_TRADES = [make_trade(id_, NOON + timedelta(seconds=id_), f"{100 + id_}.0", f"0.{id_**2}") for id_ in range(1, 5)]


def built(*trades: HistoricalTrade) -> HistoricalCandle:
    (candle,) = build_candles(trades)
    return candle


async def test_a_candle_is_built_from_its_trades(store: Store, pool: asyncpg.Pool) -> None:
    stored = await store.write(FOUR_TRADES)

    row = await only_candle(pool)
    assert stored.new_candles == 1
    assert row.candle == built(*FOUR_TRADES)
    assert (row.source, row.first_trade_id, row.last_trade_id) == ("trades", 1, 4)


async def test_later_trades_are_added_to_their_candle(store: Store, pool: asyncpg.Pool) -> None:
    counts = [(await store.write([trade])).new_candles for trade in FOUR_TRADES]

    assert counts == [1, 0, 0, 0]
    assert (await only_candle(pool)).candle == built(*FOUR_TRADES)


async def test_a_late_trade_with_the_lowest_id_changes_the_open(store: Store, pool: asyncpg.Pool) -> None:
    await store.write(FOUR_TRADES[1:3])
    before = (await only_candle(pool)).candle

    await store.write([FOUR_TRADES[0]])

    row = await only_candle(pool)
    assert (before.open, row.candle.open) == (Decimal("102.0"), Decimal("101.0"))
    assert row.candle.close == before.close == Decimal("103.0")
    assert row.first_trade_id == 1


async def test_a_late_trade_with_the_highest_id_changes_the_close_whatever_its_time(
    store: Store, pool: asyncpg.Pool
) -> None:
    await store.write(FOUR_TRADES[:2])

    await store.write([make_trade(9, NOON, "50.0")])

    row = await only_candle(pool)
    assert (row.candle.close, row.candle.open, row.last_trade_id) == (Decimal("50.0"), Decimal("101.0"), 9)


async def test_a_late_trade_between_changes_neither_open_nor_close(store: Store, pool: asyncpg.Pool) -> None:
    await store.write([FOUR_TRADES[0], FOUR_TRADES[3]])

    await store.write([FOUR_TRADES[1]])

    assert (await only_candle(pool)).candle == built(FOUR_TRADES[0], FOUR_TRADES[1], FOUR_TRADES[3])


async def test_the_exchanges_candle_stands_in_until_the_trades_are_here(store: Store, pool: asyncpg.Pool) -> None:
    theirs = make_candle(trade_count=4)

    stored = await store.write(candles=[theirs])

    row = await only_candle(pool)
    assert stored.new_candles == 1
    assert (row.candle, row.source, row.first_trade_id) == (theirs, "ohlc", None)


async def test_a_fuller_candle_of_the_exchange_replaces_the_trades(store: Store, pool: asyncpg.Pool) -> None:
    theirs = make_candle(trade_count=5)
    await store.write(FOUR_TRADES)

    stored = await store.write(candles=[theirs])

    row = await only_candle(pool)
    assert stored.new_candles == 0
    assert (row.candle, row.source, row.first_trade_id, row.last_trade_id) == (theirs, "ohlc", None, None)


@pytest.mark.parametrize("count", [1, 3, 4])
async def test_a_candle_of_the_exchange_that_is_not_fuller_is_ignored(
    store: Store, pool: asyncpg.Pool, count: int
) -> None:
    await store.write(FOUR_TRADES)

    await store.write(candles=[make_candle(trade_count=count)])

    row = await only_candle(pool)
    assert (row.candle, row.source) == (built(*FOUR_TRADES), "trades")


async def test_as_many_trades_as_the_exchange_counted_take_its_candles_place(store: Store, pool: asyncpg.Pool) -> None:
    theirs = make_candle(trade_count=4)
    await store.write(FOUR_TRADES[:3], [theirs])
    with_three = await only_candle(pool)

    await store.write([FOUR_TRADES[3]])

    row = await only_candle(pool)
    assert (with_three.candle, with_three.source) == (theirs, "ohlc")
    assert (row.candle, row.source) == (built(*FOUR_TRADES), "trades")
    assert (row.first_trade_id, row.last_trade_id) == (1, 4)


async def test_a_candle_rebuilt_from_its_trades_takes_more_of_them(store: Store, pool: asyncpg.Pool) -> None:
    await store.write(candles=[make_candle(trade_count=2)])
    await store.write(FOUR_TRADES[1:3])

    await store.write([FOUR_TRADES[0], FOUR_TRADES[3]])

    assert (await only_candle(pool)).candle == built(*FOUR_TRADES)


async def test_trades_and_candles_of_one_write_are_merged_too(store: Store, pool: asyncpg.Pool) -> None:
    fuller, emptier = make_candle(trade_count=9), make_candle(NOON + timedelta(minutes=1), trade_count=1)
    later = [make_trade(id_, NOON + timedelta(seconds=60 + id_)) for id_ in (5, 6)]

    stored = await store.write([*FOUR_TRADES, *later], [fuller, emptier])

    rows = await stored_candles(pool)
    assert stored.new_candles == 2
    assert [(row.candle, row.source) for row in rows] == [(fuller, "ohlc"), (built(*later), "trades")]


async def test_the_fullest_of_several_candles_of_one_minute_is_kept(store: Store, pool: asyncpg.Pool) -> None:
    running = [make_candle(trade_count=count, close=f"{100 + count}") for count in (2, 5, 3)]

    await store.write(candles=running)
    await store.write(candles=running[:1])

    assert (await only_candle(pool)).candle == running[1]


async def test_of_equally_full_candles_the_one_with_more_volume_is_kept(store: Store, pool: asyncpg.Pool) -> None:
    less, more = make_candle(volume="1.0"), make_candle(volume="1.5")

    for candle in (more, less, more):
        await store.write(candles=[candle])

    assert (await only_candle(pool)).candle == more


async def test_of_candles_that_differ_in_one_figure_the_same_one_is_kept_in_any_order(
    store: Store, pool: asyncpg.Pool
) -> None:
    expected = []
    for at, figure in enumerate(("volume", "high", "low", "quote_volume", "vwap", "open", "close")):
        smaller = make_candle(NOON + timedelta(minutes=2 * at))
        fields = {name: getattr(smaller, name) for name in smaller.__struct_fields__}
        larger = HistoricalCandle(**fields | {figure: fields[figure] + 1})
        kept = smaller if figure == "low" else larger  # the wider one
        for offset, order in enumerate(((smaller, larger), (larger, smaller))):
            for candle in order:
                await store.write(candles=[moved(candle, offset)])
            expected.append(moved(kept, offset))

    assert [row.candle for row in await stored_candles(pool)] == expected


def moved(candle: HistoricalCandle, minutes: int) -> HistoricalCandle:
    fields = {name: getattr(candle, name) for name in candle.__struct_fields__}
    return HistoricalCandle(**fields | {"timestamp": candle.timestamp + timedelta(minutes=minutes)})


async def test_a_download_beats_the_exchanges_candle_and_trades_beat_both(store: Store, pool: asyncpg.Pool) -> None:
    download = make_candle(trade_count=4, close="101.75", source="csv")

    await store.write(candles=[download], candle_source="csv")
    await store.write(candles=[make_candle(trade_count=4)])
    csv = await only_candle(pool)
    await store.write(FOUR_TRADES)
    trades = await only_candle(pool)
    await store.write(candles=[download], candle_source="csv")

    assert (csv.candle, csv.source) == (download, "csv")
    assert (trades.candle, trades.source) == (built(*FOUR_TRADES), "trades")
    assert await only_candle(pool) == trades


async def test_empty_minutes_are_not_stored(store: Store, pool: asyncpg.Pool) -> None:
    stored = await store.write(candles=[make_candle(trade_count=0)])

    assert stored.new_candles == 0
    assert await everything(pool) == ([], [], [])


async def test_other_intervals_than_one_minute_are_refused(store: Store, pool: asyncpg.Pool) -> None:
    candle = make_candle()
    fields = {name: getattr(candle, name) for name in candle.__struct_fields__}
    five_minutes = HistoricalCandle(**fields | {"interval_minutes": 5})

    with pytest.raises(ValueError, match="one-minute"):
        await store.write(FOUR_TRADES, [five_minutes])

    assert await everything(pool) == ([], [], [])


async def test_candles_have_a_sync_status_of_their_own(store: Store, pool: asyncpg.Pool) -> None:
    minutes = [NOON + timedelta(minutes=n) for n in (3, 0, 7)]

    for minute in minutes:
        await store.write(candles=[make_candle(minute)])
    await store.write(candles=[make_candle(minutes[0], trade_count=8)])

    status = await sync_status(pool, "BTC/USDT", "candles_1m")
    assert status is not None
    assert (status["total_records"], status["oldest_timestamp"]) == (3, NOON)
    assert status["newest_timestamp"] == NOON + timedelta(minutes=7)


async def test_candles_of_a_symbol_change_none_of_another(store: Store, pool: asyncpg.Pool) -> None:
    await store.write([make_trade(1, symbol="ETH/USDT")])

    await store.write(candles=[make_candle(trade_count=9)])

    assert [(row.candle.symbol, row.source) for row in await stored_candles(pool)] == [
        ("BTC/USDT", "ohlc"),
        ("ETH/USDT", "trades"),
    ]


async def test_the_hours_whose_candles_changed_are_kept_for_the_next_refresh(store: Store, pool: asyncpg.Pool) -> None:
    half_past = NOON + timedelta(minutes=30)

    await store.write([make_trade(1, half_past)], [make_candle(NOON + timedelta(hours=3))])
    await store.write([make_trade(2, half_past + timedelta(hours=1))])

    assert await stale_hours(pool, "BTC/USDT") == [
        (NOON, NOON + timedelta(hours=2)),
        (NOON + timedelta(hours=3), NOON + timedelta(hours=4)),
    ]


async def test_a_candle_that_changes_nothing_makes_nothing_stale(store: Store, pool: asyncpg.Pool) -> None:
    await store.write([make_trade(1), make_trade(2)])
    await pool.execute("DELETE FROM stale_hours")

    await store.write(candles=[make_candle(trade_count=1)])

    assert await stale_hours(pool, "BTC/USDT") == []


@pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)
async def test_trades_over_compressed_candles_leave_other_symbols_compressed(
    migrated_database_url: str, pool: asyncpg.Pool
) -> None:
    # Rebuilding the minutes of one symbol decompressed those of all symbols, and TimescaleDB by itself refuses to
    # decompress more than 100,000 rows in a statement: REST trades over an imported history could not be stored.
    week = 7 * 24 * 60
    await pool.execute(
        """
        INSERT INTO candles (symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume,
                             trade_count, vwap, source)
        SELECT 'A' || s || '/USDT', $1::timestamptz + m * interval '1 minute', 1, 1, 1, 1, 1, 1, 1, 1, 1, 'csv'
        FROM generate_series(1, 11) s, generate_series(0, $2 - 1) m
        """,
        NOON,
        week,
    )
    await pool.execute("SELECT compress_chunk(c) FROM show_chunks('candles') c")
    ends = [make_trade(1, NOON, symbol="A1/USDT"), make_trade(2, NOON + timedelta(minutes=week - 1), symbol="A1/USDT")]

    async with asyncpg.create_pool(migrated_database_url, min_size=1, max_size=1) as with_the_limit:
        await Store(with_the_limit).write(ends)

    assert await pool.fetchval("SELECT count(*) FROM candles WHERE source = 'trades'") == 2
    assert await pool.fetchval("SELECT count(*) FROM candles") == 11 * week
