"""Batches of many days: each transaction locks the partitions of a few."""

from datetime import timedelta

import asyncpg

from kraken_history.completeness.holes import find_holes
from kraken_history.storing.store import Store
from kraken_history.storing.widths import MOST_DAYS, by_days, halved
from tests.support.database import stored_candles, stored_ids
from tests.support.examples import NOON, make_candle, make_trade


async def test_a_batch_of_many_days_is_stored_in_several_transactions(pool: asyncpg.Pool, store: Store) -> None:
    # All of 4,000 days in one transaction needed more locks than a server has, for ever.
    wide = [make_trade(1 + n, NOON + timedelta(days=n), "100") for n in range(2 * MOST_DAYS + 5)]

    stored = await store.write([*reversed(wide), wide[0]])

    assert (stored.new_trades, stored.known_trades, stored.new_candles) == (len(wide), 1, len(wide))
    assert await stored_ids(pool) == [trade.id for trade in wide]
    assert await find_holes(pool) == {}
    assert len(await stored_candles(pool)) == len(wide)
    assert await pool.fetchval("SELECT count(DISTINCT xmin::text) FROM trades") == 3


async def test_a_transaction_that_is_too_large_for_the_server_is_halved(pool: asyncpg.Pool, store: Store) -> None:
    await pool.execute("""
        CREATE FUNCTION few_days() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF (SELECT count(DISTINCT timestamp::date) FROM trades WHERE xmin::text = pg_current_xact_id()::text) >= 3
            THEN RAISE 'out of shared memory' USING ERRCODE = '53200'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER few_days BEFORE INSERT ON trades FOR EACH ROW EXECUTE FUNCTION few_days();
    """)
    wide = [make_trade(1 + n, NOON + timedelta(days=n), "100") for n in range(8)]

    assert (await store.write(wide)).new_trades == 8
    assert await stored_ids(pool) == list(range(1, 9))


def test_a_batch_of_few_days_is_one_part() -> None:
    trades = [make_trade(n, NOON + timedelta(days=n % MOST_DAYS), "100") for n in range(100)]

    (only,) = by_days(trades, [])
    assert only.trades is trades
    (empty,) = by_days([], [])
    assert (empty.trades, empty.candles) == ([], [])


def test_the_parts_hold_all_rows_oldest_first_and_in_order() -> None:
    trades = [make_trade(n, NOON + timedelta(days=n * 7 % 50), "100") for n in range(100)]
    candles = [make_candle(NOON + timedelta(days=n)) for n in range(60)]

    parts = by_days(trades, candles)

    assert sorted(t.id for part in parts for t in part.trades) == list(range(100))
    assert [c for part in parts for c in part.candles] == candles
    times = [[t.timestamp for t in part.trades] + [c.timestamp for c in part.candles] for part in parts]
    for part, moments in zip(parts, times, strict=True):
        assert len({moment.date() for moment in moments}) <= MOST_DAYS
        assert [t.id for t in part.trades] == sorted(t.id for t in part.trades)
    ends = [max(moments) for moments in times]
    assert ends == sorted(ends)


def test_rows_of_one_day_cannot_be_halved() -> None:
    trades = [make_trade(n, NOON, "100") for n in range(10)]

    assert halved(by_days(trades, [])[0]) is None
    two = halved(by_days([*trades, make_trade(11, NOON + timedelta(days=3), "100")], [])[0])
    assert two is not None
    assert [len(part.trades) for part in two] == [10, 1]
