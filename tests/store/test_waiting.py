"""Trades whose ids leap absurdly far wait apart from the others."""

from datetime import timedelta

import asyncpg
import pytest
from msgspec.structs import replace

from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalTrade
from kraken_history.storing.store import Store
from kraken_history.storing.waiting import MOST_WAITING
from tests.support.database import ledger, stored_candles, stored_ids
from tests.support.records import NOON, trade

SYMBOL = "BTC/USDT"

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


def make_trade(id_: int) -> HistoricalTrade:
    """All of one instant."""
    return replace(trade(id_ % 1000), id=id_, timestamp=NOON)


async def waiting_ids(pool: asyncpg.Pool) -> list[int]:
    return [row["id"] for row in await pool.fetch("SELECT id FROM waiting_trades ORDER BY id")]


@pytest.mark.parametrize("absurd", [2**62, 2**63 - 2, 2_000_000])
async def test_an_absurd_trade_of_a_batch_waits_and_the_others_are_stored(pool: asyncpg.Pool, absurd: int) -> None:
    # It was stored: a hole of 4.6e18 ids, and a wrong candle, for ever.
    store = Store(pool, doubts_leaps=True)
    await store.write([make_trade(n) for n in (10, 11)])
    candles = await stored_candles(pool)
    stored = await store.write([make_trade(12), make_trade(absurd), make_trade(13)])
    again = await store.write([make_trade(absurd)])

    assert (stored.new_trades, stored.known_trades, stored.holes) == (2, 0, {SYMBOL: IdRanges()})
    assert [trade.id for trade in stored.waiting] == [absurd]
    assert (again.new_trades, again.known_trades, list(again.waiting)) == (0, 0, [])
    assert await ledger(pool) == {SYMBOL: IdRanges([(10, 14)])}
    assert await stored_ids(pool) == [10, 11, 12, 13]
    assert await waiting_ids(pool) == [absurd]
    (before,), (after,) = candles, await stored_candles(pool)
    assert (before.trade_count, after.trade_count) == (2, 4)


async def test_an_absurdly_low_id_waits_too(pool: asyncpg.Pool) -> None:
    store = Store(pool, doubts_leaps=True)
    await store.write([make_trade(109_000_000)])
    await store.write([make_trade(1), make_trade(109_000_001)])

    assert await stored_ids(pool) == [109_000_000, 109_000_001]
    assert await waiting_ids(pool) == [1]


async def test_the_first_trades_of_a_symbol_are_judged_by_one_another(pool: asyncpg.Pool) -> None:
    await Store(pool, doubts_leaps=True).write([make_trade(2**62), make_trade(50_000_000), make_trade(50_000_001)])

    assert await stored_ids(pool) == [50_000_000, 50_000_001]
    assert await waiting_ids(pool) == [2**62]


async def test_a_leap_that_time_explains_is_stored_with_its_hole(pool: asyncpg.Pool) -> None:
    store = Store(pool, doubts_leaps=True)
    first, later = make_trade(1), make_trade(3_000_000)
    await store.write([first])
    stored = await store.write([replace(later, timestamp=first.timestamp + timedelta(days=1))])
    assert stored.holes == {SYMBOL: IdRanges([(2, 3_000_000)])}


async def test_pages_of_rest_are_believed(pool: asyncpg.Pool) -> None:
    await Store(pool).write([make_trade(1), make_trade(2**62)])

    assert await stored_ids(pool) == [1, 2**62]


async def test_what_waits_is_bounded(pool: asyncpg.Pool) -> None:
    store = Store(pool, doubts_leaps=True)
    await store.write([make_trade(1)])
    for begin in (0, 600):
        await store.write([make_trade(2**62 + n) for n in range(begin, begin + 600)])
    await store.write([make_trade(2**62 + 5_000)])

    assert len(await waiting_ids(pool)) <= MOST_WAITING + 600
    assert 2**62 + 5_000 not in await waiting_ids(pool)
