"""When a candle is closed."""

from datetime import datetime, timedelta

import asyncpg
import pytest

from kraken_history.completeness.covered_time import cover
from kraken_history.errors import UsageError
from kraken_history.reading.database import Database
from kraken_history.reading.settling import Timing, read_settled
from kraken_history.records import MINUTE, TimeRange
from kraken_history.storing.store import Store
from tests.support.absent import make_absent
from tests.support.examples import NOON, make_candle, make_trade

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
BTC, ETH = "BTC/USDT", "ETH/USDT"


async def settled_until(
    database: Database,
    now: datetime,
    *,
    symbol: str = BTC,
    position: datetime | None = None,
    width: timedelta = MINUTE,
    patience_s: float = 120.0,
) -> datetime | None:
    timing = Timing(grace_s=10, patience_s=patience_s)
    [settled] = await read_settled(database, {symbol: position}, width, timing, now=now)
    return settled.until


async def test_a_later_trade_closes_all_before_it(database: Database, store: Store) -> None:
    later = NOON + MINUTE + 3 * SECOND
    await store.write([make_trade(1, NOON), make_trade(2, later)])

    assert await settled_until(database, later + SECOND) == later


async def test_while_nothing_comes_the_last_candle_stays_open(database: Database, store: Store) -> None:
    await store.write([make_trade(1, NOON), make_trade(2, NOON, symbol=ETH)])

    assert await settled_until(database, NOON + 30 * DAY) == NOON


async def test_a_quiet_symbol_is_closed_while_others_trade(database: Database, store: Store) -> None:
    await store.write([make_trade(1, NOON), make_trade(7, NOON + 70 * SECOND, symbol=ETH)])

    assert await settled_until(database, NOON + 70 * SECOND) == NOON + MINUTE
    assert await settled_until(database, NOON + 65 * SECOND) == NOON + 55 * SECOND
    assert await settled_until(database, NOON + 30 * DAY) == NOON + MINUTE


async def test_by_default_a_symbol_is_not_quiet_before_a_dead_consumers_entries_are_taken_over(
    database: Database, store: Store
) -> None:
    """An entry of ETH waits in a dead consumer for 35 s, while another one stores BTC."""
    taken_over = NOON + MINUTE + 35 * SECOND
    stuck = make_trade(2, NOON + 59 * SECOND, symbol=ETH)
    await store.write([make_trade(1, NOON, symbol=ETH), make_trade(1, taken_over)])
    for timing, is_closed in ((Timing(), False), (Timing(grace_s=10), True)):
        [settled] = await read_settled(database, {ETH: NOON}, MINUTE, timing, now=taken_over)
        assert settled.until is not None
        assert (settled.until >= NOON + MINUTE) == is_closed
    await store.write([stuck, make_trade(2, taken_over + 10 * SECOND)])

    [settled] = await read_settled(database, {ETH: NOON}, MINUTE, Timing(), now=taken_over + 10 * SECOND)
    assert settled.until == NOON + MINUTE


async def test_what_kraken_was_asked_about_is_closed(database: Database, store: Store, pool: asyncpg.Pool) -> None:
    await store.write([make_trade(1, NOON)])
    await cover(pool, BTC, TimeRange(NOON + 5 * MINUTE, NOON + 6 * MINUTE))
    before = await settled_until(database, NOON + DAY)
    await cover(pool, BTC, TimeRange(NOON, NOON + 2 * MINUTE))

    assert before == NOON
    assert await settled_until(database, NOON + DAY) == NOON + 2 * MINUTE


async def test_a_hole_keeps_its_minute_open_until_patience_ends(database: Database, store: Store) -> None:
    await store.write([make_trade(n, NOON + n * 20 * SECOND) for n in (0, 1, 2, 3, 4, 8, 9)])
    hole = NOON + MINUTE  # 4 is at 12:01:20, 8 at 12:02:40

    assert await settled_until(database, NOON + 180 * SECOND) == hole
    assert await settled_until(database, NOON + 240 * SECOND) == hole + MINUTE
    assert await settled_until(database, NOON + DAY) == NOON + 180 * SECOND


async def test_a_hole_that_begins_with_a_minute_does_not_hold_the_one_before(database: Database, store: Store) -> None:
    await store.write([make_trade(n, NOON + n * 20 * SECOND) for n in (0, 1, 2, 3, 6, 7, 9)])
    await store.write(candles=[make_candle(NOON + 2 * MINUTE, trade_count=90)])

    # 3 is at 12:01:00, and the candle of 12:02, where 8 is missing, is the exchange's.
    assert await settled_until(database, NOON + 181 * SECOND, patience_s=600) == NOON + MINUTE
    await store.write([make_trade(n, NOON + n * 20 * SECOND) for n in (4, 5)])
    assert await settled_until(database, NOON + 181 * SECOND, patience_s=600) == NOON + 2 * MINUTE


async def test_a_healed_hole_and_one_proven_absent_hold_nothing(
    database: Database, store: Store, pool: asyncpg.Pool
) -> None:
    last = NOON + 120 * SECOND
    await store.write([make_trade(1, NOON), make_trade(3, NOON + MINUTE), make_trade(5, last)])
    held = await settled_until(database, last)
    await store.write([make_trade(2, NOON)])
    after_healing = await settled_until(database, last)
    await make_absent(pool, (4, 5))

    assert (held, after_healing) == (NOON, NOON + MINUTE)
    assert await settled_until(database, last) == last


@pytest.mark.parametrize("source", ["trades", "ohlc"])
async def test_a_hole_before_the_position_holds_nothing(database: Database, store: Store, source: str) -> None:
    """Also where the exchange's fuller candle stands in the hole's minute, which tells no ids."""
    last = NOON + 110 * SECOND
    await store.write([make_trade(1, NOON), make_trade(3, NOON + SECOND), make_trade(4, NOON + MINUTE)])
    await store.write([make_trade(5, last)])
    if source == "ohlc":
        await store.write(candles=[make_candle(NOON, trade_count=3)])

    held = await settled_until(database, last, position=NOON)

    assert held is not None
    assert held <= NOON
    assert await settled_until(database, last, position=NOON + MINUTE) == last


async def test_a_hole_holds_a_longer_candle_that_it_lies_in(database: Database, store: Store) -> None:
    hour = 60 * MINUTE
    await store.write([make_trade(1, NOON), make_trade(3, NOON + SECOND), make_trade(4, NOON + hour)])

    assert await settled_until(database, NOON + hour, width=hour) == NOON + hour - 120 * SECOND
    assert await settled_until(database, NOON + hour + 120 * SECOND, width=hour) == NOON + hour


async def test_old_holes_hold_nothing_without_a_position(database: Database, store: Store) -> None:
    old = NOON - 400 * DAY
    await store.write([make_trade(10 * n, old + n * MINUTE) for n in range(100)])
    await store.write([make_trade(9999, NOON - 10 * MINUTE), make_trade(10_000, NOON)])

    assert await settled_until(database, NOON + SECOND) == NOON
    assert await settled_until(database, NOON + SECOND, position=old) == NOON


async def test_without_trades_a_later_minute_closes_and_so_does_time(
    database: Database, store: Store, pool: asyncpg.Pool
) -> None:
    await store.write(candles=[make_candle(NOON), make_candle(NOON + MINUTE)], candle_source="csv")
    await pool.execute("UPDATE data_sync_status SET last_sync_at = $1", NOON + 2 * MINUTE)

    assert await settled_until(database, NOON + 2 * MINUTE) == NOON + MINUTE
    assert await settled_until(database, NOON + 2 * MINUTE + 10 * SECOND) == NOON + 2 * MINUTE
    assert await settled_until(database, NOON + 9 * MINUTE) == NOON + 9 * MINUTE - 10 * SECOND


async def test_downloaded_candles_after_the_newest_trade_are_closed(database: Database, store: Store) -> None:
    await store.write([make_trade(1, NOON)])
    await store.write(candles=[make_candle(NOON + n * MINUTE) for n in range(5)], candle_source="csv")

    assert await settled_until(database, NOON + 5 * MINUTE) == NOON + 3 * MINUTE
    assert await settled_until(database, NOON + DAY) == NOON + 4 * MINUTE


async def test_of_a_symbol_that_is_not_stored_nothing_is_closed(database: Database) -> None:
    assert await settled_until(database, NOON) is None


async def test_of_many_holes_the_first_after_the_position_holds(database: Database, store: Store) -> None:
    trades = [make_trade(20 * n, NOON + n * 10 * SECOND) for n in range(100)]
    await store.write([*trades, make_trade(1990, NOON + 16 * MINUTE + 35 * SECOND)])
    last = NOON + 16 * MINUTE + 35 * SECOND

    # The hole before 12:16:00 begins in the minute before.
    assert await settled_until(database, last, position=NOON + 16 * MINUTE) == NOON + 15 * MINUTE
    assert await settled_until(database, last, position=NOON) == last - 120 * SECOND


@pytest.mark.parametrize("wrong", [{"grace_s": -1}, {"patience_s": float("nan")}, {"poll_s": 0}, {"poll_s": True}])
def test_timing_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=rf"{next(iter(wrong))}: expected a number of seconds"):
        Timing(**wrong)
