"""Trades that are not stored: refused ones, and those whose id belongs to another trade."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import asyncpg
import msgspec
import pytest

from kraken_history.completeness.holes import find_holes
from kraken_history.database.failures import DATA_ERRORS
from kraken_history.records import HistoricalTrade, RefusedTrade
from kraken_history.storing.sifting import sift
from kraken_history.storing.store import Store
from tests.support.absent import absent_ids
from tests.support.examples import NOON, make_trade

MICROSECOND = timedelta(microseconds=1)


def refused(id_: int, reason: str = "expected a positive volume, got 0") -> RefusedTrade:
    return RefusedTrade(id_, "BTC/USDT", NOON, reason, '["1","0"]')


def at(id_: int, price: str = "100") -> HistoricalTrade:
    return make_trade(id_, NOON + id_ * timedelta(seconds=1), price)


async def absent(pool: asyncpg.Pool) -> list[tuple[int, int]]:
    return await absent_ids(pool)


async def recorded(pool: asyncpg.Pool) -> list[tuple[int, str]]:
    return [tuple(row) for row in await pool.fetch("SELECT id, reason FROM refused_trades ORDER BY id")]


async def test_a_refused_trade_is_recorded_and_nothing_waits_for_its_id(pool: asyncpg.Pool, store: Store) -> None:
    stored = await store.write([at(1), at(3)], refused=[refused(2), refused(2)])

    assert (stored.new_trades, stored.holes, stored.refused) == (
        2,
        {"BTC/USDT": stored.holes["BTC/USDT"]},
        [refused(2)],
    )
    assert await recorded(pool) == [(2, "expected a positive volume, got 0")]
    assert await absent(pool) == [(2, 3)]
    assert await find_holes(pool) == {}


async def test_a_refusal_again_is_not_news_and_keeps_the_first_reason(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(refused=[refused(2)])

    assert (await store.write(refused=[refused(2, "another")])).refused == []
    assert await recorded(pool) == [(2, "expected a positive volume, got 0")]


async def test_a_trade_that_is_stored_is_not_refused_any_more(pool: asyncpg.Pool, store: Store) -> None:
    await store.write([at(1)], refused=[refused(2), refused(4)])
    await store.write([at(2), at(3)])

    assert await recorded(pool) == [(4, "expected a positive volume, got 0")]
    assert await absent(pool) == [(4, 5)]

    assert (await store.write(refused=[refused(2)])).refused == []
    assert await absent(pool) == [(4, 5)]


async def test_of_a_good_and_a_bad_copy_in_one_batch_the_good_one_counts(pool: asyncpg.Pool, store: Store) -> None:
    await store.write([at(2)], refused=[refused(2)])

    assert (await recorded(pool), await absent(pool)) == ([], [])


async def test_text_that_the_database_cannot_hold_is_recorded_all_the_same(pool: asyncpg.Pool, store: Store) -> None:
    nasty = RefusedTrade(2, "BTC/USDT", None, "a \0 and \ud800", "x" * 5000)

    await store.write(refused=[nasty])

    row = await pool.fetchrow("SELECT timestamp, length(row) FROM refused_trades")
    assert row is not None
    assert tuple(row) == (None, 2000)


async def test_writers_of_the_same_refusals_do_not_disturb_each_other(pool: asyncpg.Pool, store: Store) -> None:
    batch = [refused(id_) for id_ in range(2, 40)]

    written = await asyncio.gather(*(store.write([at(1)], refused=batch[n:] + batch[:n]) for n in range(4)))

    assert sum(len(each.refused) for each in written) == len(batch)


async def test_the_trades_that_the_database_refuses_are_found(store: Store, pool: asyncpg.Pool) -> None:
    trades = [msgspec.structs.replace(at(n), misc="a\0b" if n in (3, 7) else "") for n in range(1, 11)]

    sifted = await sift(store, trades)

    assert [trade.id for trade in sifted.trades] == [1, 2, 4, 5, 6, 8, 9, 10]
    assert [trade.id for trade in sifted.refused] == [3, 7]
    assert all("the database refuses it" in trade.reason for trade in sifted.refused)
    assert not sifted.proves_nothing
    assert await pool.fetchval("SELECT count(*) FROM trades") == 0


async def test_if_the_database_refuses_everything_the_trades_are_not_at_fault(store: Store, pool: asyncpg.Pool) -> None:
    await pool.execute("ALTER TABLE candles ADD CONSTRAINT cheap CHECK (high < 50)")

    assert (await sift(store, [at(n) for n in range(1, 12)])).proves_nothing
    with pytest.raises(DATA_ERRORS):
        await store.write([at(1)])


# Ids that begin again


@pytest.mark.parametrize(
    "other",
    [
        {"price": Decimal("100.1")}, {"volume": Decimal(2)}, {"side": "sell"},
        {"timestamp": NOON + timedelta(seconds=1, microseconds=3)}, {"timestamp": NOON + timedelta(days=400)},
    ],
    ids=["price", "volume", "side", "microseconds", "year"],
)  # fmt: skip
async def test_another_trade_with_a_known_id_is_noticed(
    pool: asyncpg.Pool, store: Store, other: dict[str, object]
) -> None:
    """Thirty such trades were once dropped without a word."""
    await store.write([at(1), at(2)])
    again = msgspec.structs.replace(at(1), **other)

    first, second = await store.write([again, at(2), at(3)]), await store.write([again])

    assert (first.new_trades, first.known_trades, first.reused) == (1, 2, [again])
    assert second.reused == []  # known by now
    assert await reused_ids(pool) == [(1, 2)]
    assert await pool.fetchval("SELECT price FROM trades WHERE id = 1") == 100


async def reused_ids(pool: asyncpg.Pool) -> list[tuple[int, int]]:
    ids = await pool.fetchval("SELECT ids FROM reused_ids WHERE symbol = 'BTC/USDT'")
    return [] if ids is None else [(r.lower, r.upper) for r in ids]


async def test_the_same_trade_again_is_not_another(pool: asyncpg.Pool, store: Store) -> None:
    """Over REST, the same trade has zeros at the end of its price, and may be a microsecond later."""
    await store.write([at(1)])
    same = msgspec.structs.replace(
        at(1, "100.000"), timestamp=at(1).timestamp + MICROSECOND, order_type="market", misc="x"
    )

    assert not (await store.write([same, same])).reused
    assert await reused_ids(pool) == []


async def test_two_trades_with_one_id_in_one_batch_are_noticed(pool: asyncpg.Pool, store: Store) -> None:
    stored = await store.write([at(1), at(1, "101"), at(1)])

    assert [trade.price for trade in stored.reused] == [101]
    assert await reused_ids(pool) == [(1, 2)]


async def test_nothing_is_concluded_where_trades_were_dropped(pool: asyncpg.Pool, store: Store) -> None:
    await store.write([at(1)])
    await pool.execute("DELETE FROM trades")
    await pool.execute("INSERT INTO dropped_ranges VALUES ('trades', '{[2025-11-10 00:00+00, 2025-11-11 00:00+00)}')")

    assert (await store.write([at(1)])).reused == []


async def test_symbols_are_not_mixed_up(pool: asyncpg.Pool, store: Store) -> None:
    ether = msgspec.structs.replace(at(1, "7"), symbol="ETH/USDT")
    await store.write([at(1), ether])

    assert (await store.write([ether, at(1), msgspec.structs.replace(ether, price=Decimal(8))])).known_trades == 3
    assert [tuple(row) for row in await pool.fetch("SELECT symbol FROM reused_ids")] == [("ETH/USDT",)]
