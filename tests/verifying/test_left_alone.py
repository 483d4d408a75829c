"""A repair never removes the last trace of what was traded: whole days may have been dropped without a record of it."""

import asyncpg
import pytest

from kraken_history.cli.verify import repair_and_verify
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.store import Store
from tests.aggregates.test_history_is_kept import drop_old_rows
from tests.support.contents import everything
from tests.support.examples import make_candle
from tests.verifying.histories import DAY, HOUR, LATER, MONDAY, OTHER, SYMBOL, history, store_history, verified


async def longer(pool: asyncpg.Pool) -> list[tuple[object, ...]]:
    """What the longest intervals show."""
    rows = [
        row
        for view in ("candles_1h", "candles_1d", "candles_1w")
        for row in await pool.fetch(f"SELECT * FROM {view} ORDER BY symbol, timestamp")  # noqa: S608 — of the line above
    ]
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("how", ["delete", "drop"])
async def test_days_whose_trades_are_gone_keep_their_candles_and_their_ids(
    pool: asyncpg.Pool, migrated_database_url: str, how: str
) -> None:
    await store_history(pool)
    if how == "delete":
        await pool.execute("DELETE FROM trades WHERE timestamp < $1", MONDAY + DAY)
    elif await pool.fetchval("SELECT to_regclass('trades_20251110') IS NULL"):
        await pool.execute("SELECT drop_chunks('trades', older_than => $1::timestamptz)", MONDAY + DAY)
    else:
        await pool.execute("DROP TABLE trades_20251110")
    (_, candles, status), shown = await everything(pool), await longer(pool)

    outcome = await repair_and_verify(migrated_database_url, [], None, None)

    assert outcome.repaired is not None
    assert (outcome.repaired.rebuilt_candles, outcome.repaired.missing_trades) == (0, 0)
    assert outcome.repaired.left_trades == 2 * 143 * 3
    assert {each.what for each in outcome.verification.differences} == {
        "trade_missing", "candle_without_trades", "trade_extent",
    }  # fmt: skip
    assert ((await everything(pool))[1:], await longer(pool)) == ((candles, status), shown)

    await pool.execute(
        "INSERT INTO dropped_ranges VALUES ('trades', tstzmultirange(tstzrange($1, $2)))", MONDAY, MONDAY + DAY
    )
    assert (await verified(pool)).differences == []


async def test_longer_candles_whose_minutes_are_gone_are_kept(pool: asyncpg.Pool, migrated_database_url: str) -> None:
    """The minutes came from a download, so no trade can tell what they were."""
    candles = [make_candle(MONDAY + n * HOUR, symbol=OTHER) for n in range(48)]
    await Store(pool).write((), candles, candle_source="csv")
    await Store(pool).write(history())
    await refresh(pool, now=LATER)
    shown = await longer(pool)
    await pool.execute("DELETE FROM candles WHERE symbol = $1 AND timestamp < $2", OTHER, MONDAY + 30 * HOUR)

    outcome = await repair_and_verify(migrated_database_url, [], None, None)

    assert {(each.symbol, each.what) for each in outcome.verification.differences} == {
        (OTHER, "longer_without_minutes"),
        (OTHER, "longer_differs"),
    }
    assert await longer(pool) == shown


async def test_minutes_of_dropped_trades_are_kept_beside_what_is_repaired(
    pool: asyncpg.Pool, store: Store, migrated_database_url: str
) -> None:
    await store.write(history(days=10))
    await refresh(pool, now=LATER)
    shown = await longer(pool)
    await drop_old_rows(pool, "delete", MONDAY + 4 * DAY)
    await pool.execute(
        "INSERT INTO dropped_ranges SELECT unnest(ARRAY['trades', 'candles']), tstzmultirange(tstzrange($1, $2))",
        MONDAY, MONDAY + 4 * DAY,
    )  # fmt: skip
    assert (await verified(pool)).differences == []
    await pool.execute("UPDATE candles SET close = 1 WHERE timestamp = $1", MONDAY + 6 * DAY)
    await pool.execute("DELETE FROM trades WHERE timestamp = $1", MONDAY + 7 * DAY)

    outcome = await repair_and_verify(migrated_database_url, [SYMBOL], None, None)

    assert outcome.repaired is not None
    assert (outcome.repaired.rebuilt_candles, outcome.repaired.missing_trades) == (2, 1)
    assert outcome.verification.differences == []
    assert len(await longer(pool)) == len(shown)
