"""A pair that is traded every few hours: many windows, each of one bucket.

The marks were removed window by window, and each time the whole value was written: 8,000 such minutes took 124 s and
2.2 GB of WAL.
"""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.storing import aggregates
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.longer_intervals import AGGREGATES, Aggregate
from kraken_history.storing.materialized import ContinuousKeeper, TableKeeper
from kraken_history.storing.store import Store
from tests.aggregates.truth import assert_right, marked_ranges
from tests.support.examples import make_trade

MONDAY = datetime(2025, 9, 8, tzinfo=UTC)  # all days of these tests are in one slice
DAYS = 30
NOW = MONDAY + timedelta(days=60)


async def write_sparse(store: Store) -> int:
    """Store a trade every three hours, and return how many."""
    trades = [make_trade(n, MONDAY + n * timedelta(hours=3)) for n in range(DAYS * 8)]
    await store.write(trades)
    return len(trades)


def count_unmarks(patch: pytest.MonkeyPatch) -> list[int]:
    """The number of windows of each removal of marks of five minutes, as they happen."""
    counts: list[int] = []
    for keeper in (TableKeeper, ContinuousKeeper):
        real = keeper.unmark

        async def unmark(self: object, aggregate: Aggregate, refreshed: list[object], real: object = real) -> None:
            if aggregate.minutes == 5:
                counts.append(len(refreshed))
            await real(self, aggregate, refreshed)  # type: ignore[operator]

        patch.setattr(keeper, "unmark", unmark)
    return counts


async def test_windows_with_nothing_between_them_are_refreshed_at_once(pool: asyncpg.Pool, store: Store) -> None:
    await write_sparse(store)

    done = await refresh(pool, now=NOW)

    assert [each.view for each in done] == [aggregate.view for aggregate in AGGREGATES]
    await assert_right(pool)


async def test_marks_are_removed_for_many_windows_at_once(
    pool: asyncpg.Pool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregates, "_ROWS_PER_WINDOW", 0)
    counts = count_unmarks(monkeypatch)
    written = await write_sparse(store)

    await refresh(pool, now=NOW)

    assert sum(counts) == written
    assert len(counts) <= 8
    assert await marked_ranges(pool, AGGREGATES[0]) == []
    await assert_right(pool)
