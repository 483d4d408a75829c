"""Ten years, in which each trade lies in a partition or chunk of its own, are verified with few locks."""

from datetime import timedelta

import asyncpg
import pytest

from kraken_history.cli.verify import repair_and_verify
from kraken_history.reading.verification import Step, verify
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.store import Store
from tests.backfill.test_decade import DAYS_APART, FEW_LOCKS, TRADES, Locks
from tests.support.examples import make_trade
from tests.verifying.histories import MONDAY, OTHER

START = MONDAY - timedelta(days=DAYS_APART * TRADES)


@pytest.mark.timeout(120)
async def test_a_decade_is_verified_and_repaired_with_few_locks(
    pool: asyncpg.Pool, store: Store, migrated_database_url: str
) -> None:
    for n in range(0, TRADES, 10):  # as pages are cut, so that no write locks them all
        moments = [START + timedelta(days=DAYS_APART * m) for m in range(n, n + 10)]
        await store.write([make_trade(n + at + 1, moment) for at, moment in enumerate(moments)])
        await store.write([make_trade(n + at + 1, moment, symbol=OTHER) for at, moment in enumerate(moments)])
    await refresh(pool)
    await pool.execute("DELETE FROM trades WHERE id = 50 AND symbol = 'BTC/USDT'")
    steps: list[Step] = []

    async with Locks(pool) as locks:
        async with pool.acquire() as connection:
            outcome = await verify(connection, on_step=steps.append)
            part = await verify(connection, None, START + timedelta(days=DAYS_APART * 40), MONDAY)
        repaired = await repair_and_verify(migrated_database_url, [], None, None)

    for found in (outcome, part):
        assert [each.what for each in found.differences] == ["candle_without_trades", "trade_missing"]
    assert outcome.trades == 2 * TRADES - 1
    assert [step.done for step in steps if step.of == "trades"][-1] == steps[0].total < 2 * 7 * TRADES
    assert repaired.verification.is_right
    assert locks.most < FEW_LOCKS
