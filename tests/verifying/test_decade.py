"""Years in which each trade lies in a partition or chunk of its own are verified with few locks."""

from itertools import pairwise

import asyncpg

from kraken_history.reading.verification import Step, verify
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.store import Store
from tests.backfill.test_decade import Locks
from tests.support.examples import make_trade
from tests.verifying.histories import DAY, MONDAY

TRADES, DAYS_APART = 60, 33
FEW_LOCKS = 100
"""A statement over all of these trades, each with its partition and its index, takes 120."""


async def test_years_are_verified_with_few_locks(pool: asyncpg.Pool, store: Store) -> None:
    trades = [make_trade(n + 1, MONDAY - DAYS_APART * (TRADES - n) * DAY) for n in range(TRADES)]
    for at in range(0, TRADES, 5):  # a batch locks all partitions that it writes
        await store.write(trades[at : at + 5])
    await refresh(pool)
    steps: list[Step] = []

    async with Locks(pool) as locks, pool.acquire() as connection:
        outcome = await verify(connection, on_step=steps.append)

    assert (outcome.differences, outcome.trades, outcome.candles) == ([], TRADES, TRADES)
    days = [step for step in steps if step.of == "trades"]
    assert [step.done for step in days] == list(range(1, days[0].total + 1))
    assert TRADES <= len(days) <= 3 * TRADES + 16  # a day of trades, what its week has before and after; days ahead
    assert all(one.window.end <= other.window.start for one, other in pairwise(days))
    assert locks.most < FEW_LOCKS
