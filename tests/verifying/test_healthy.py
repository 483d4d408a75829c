"""What was stored as it should be has no difference, whatever was written, dropped or compressed."""

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kraken_history.database.connections import write_again
from kraken_history.reading.verified_ids import SeenIds
from kraken_history.records import TimeRange
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.retention import drop_old
from kraken_history.storing.store import Store
from tests.aggregates.test_any_sequence import PERIOD, SUNDAY, Refresh, Write, _refreshes, _writes, fresh_pool
from tests.support.examples import make_candle, make_trade
from tests.support.servers import DatabaseServer
from tests.verifying.histories import DAY, HOUR, LATER, MONDAY, OTHER, SYMBOL, history, store_history, verified


async def test_an_empty_database_agrees(pool: asyncpg.Pool) -> None:
    outcome = await verified(pool)

    assert (outcome.is_right, outcome.window, outcome.trades) == (True, None, 0)


async def test_everything_is_counted(pool: asyncpg.Pool) -> None:
    await store_history(pool)

    outcome = await verified(pool)

    assert outcome.differences == []
    assert outcome.window == TimeRange(MONDAY + timedelta(minutes=10), MONDAY + 4 * DAY + timedelta(minutes=1))
    assert outcome.symbols == [SYMBOL, OTHER]
    assert (outcome.trades, outcome.candles) == (2 * 1_296, 2 * 432 + 2)
    assert outcome.longer["candles_1h"] == 2 * 73 + 1
    assert outcome.longer["candles_1w"] == 2


async def test_one_symbol_and_a_range_are_verified_alone(pool: asyncpg.Pool) -> None:
    await store_history(pool)

    outcome = await verified(pool, [OTHER], MONDAY + 6 * HOUR, MONDAY + 2 * DAY)

    assert outcome.differences == []
    assert (outcome.symbols, outcome.trades) == ([OTHER], 42 * 6 * 3)
    assert (outcome.longer["candles_1h"], outcome.longer["candles_1d"], outcome.longer["candles_1w"]) == (42, 1, 0)


@settings(max_examples=15)
@given(steps=st.lists(_writes | _refreshes, min_size=2, max_size=8))
async def test_any_sequence_of_writes_and_refreshes_agrees(
    database_server: DatabaseServer, steps: list[Write | Refresh]
) -> None:
    async with fresh_pool(database_server) as pool:
        for step in steps:
            match step:
                case Write(trades, candles):
                    await Store(pool).write(trades, candles)
                case Refresh(now, within):
                    await refresh(pool, within=within, now=now)
        assert (await verified(pool)).differences == []

        await refresh(pool, now=SUNDAY + PERIOD + 8 * DAY)
        assert (await verified(pool)).differences == []
        assert (await verified(pool, None, SUNDAY + DAY, SUNDAY + 7 * DAY)).differences == []


@pytest.mark.parametrize("is_late", [False, True], ids=["", "and something comes late"])
async def test_what_retention_dropped_is_no_difference(pool: asyncpg.Pool, store: Store, is_late: bool) -> None:
    await store.write(history(days=24), [make_candle(MONDAY + timedelta(minutes=5), symbol=OTHER)])
    cutoffs = {"trades": MONDAY + 18 * DAY, "candles": MONDAY + 15 * DAY, "candles_5m": MONDAY + 12 * DAY}
    await drop_old(pool, cutoffs, now=LATER)
    if is_late:
        late = [make_trade(100_000 + n, MONDAY + n * DAY + timedelta(minutes=10)) for n in (1, 10, 17, 20)]
        await Store(pool).write(late, [make_candle(MONDAY + DAY, trade_count=90)])
        await refresh(pool, now=LATER)

    outcome = await verified(pool)

    assert outcome.differences == []
    assert outcome.trades < 24 * 144 * 3


async def test_longer_candles_that_retention_dropped_before_their_minutes_are_no_difference(
    pool: asyncpg.Pool, store: Store
) -> None:
    await store.write([make_trade(n, MONDAY + n * 10 * DAY) for n in range(1, 150)])
    now = MONDAY + 1600 * DAY
    await refresh(pool, now=now)
    before = (await verified(pool)).longer

    dropped = await drop_old(pool, {"candles_5m": MONDAY + 900 * DAY}, now=now)
    outcome = await verified(pool)

    assert dropped["candles_5m"] > 0
    assert outcome.differences == []
    assert outcome.longer["candles_5m"] < before["candles_5m"]
    assert outcome.longer["candles_1h"] == before["candles_1h"]


@pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)
async def test_compressed_chunks_agree(pool: asyncpg.Pool) -> None:
    await store_history(pool)
    for table in ("trades", "candles"):
        await pool.execute(f"SELECT compress_chunk(c) FROM show_chunks('{table}') AS c")  # noqa: S608

    outcome = await verified(pool)

    assert (outcome.differences, outcome.trades) == ([], 2 * 1_296)


async def test_writes_and_refreshes_meanwhile_are_no_difference(pool: asyncpg.Pool, store: Store) -> None:
    """Days that were read already, and days that were not, get trades; the ledger changes with them."""
    trades = history(days=8)
    await store.write(trades[::2])
    late = [trade for n in range(1, 80, 2) for trade in (trades[n], trades[-n])]

    async def write() -> None:
        for trade in late:
            await write_again(partial(store.write, [trade]))

    async def keep_refreshing() -> None:
        while not writing.done():
            await refresh(pool, now=LATER)

    async def keep_verifying() -> list[int]:
        seen = []
        while not writing.done():
            outcome = await verified(pool)
            assert outcome.differences == []
            seen.append(outcome.trades)
        return seen

    writing = asyncio.create_task(write())
    seen, _ = await asyncio.gather(keep_verifying(), keep_refreshing())
    await writing

    assert len(set(seen)) > 1
    assert seen == sorted(seen)


async def test_trades_that_arrive_while_it_begins_are_no_difference(
    pool: asyncpg.Pool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in the ledger, and later than all that was there when the range was determined."""
    await store.write(history())
    begin = SeenIds.begin

    async def begin_late(*arguments: Any) -> None:
        await store.write([make_trade(9_000, LATER)])
        await begin(*arguments)
        await store.write([make_trade(9_001, LATER + DAY)])

    monkeypatch.setattr(SeenIds, "begin", begin_late)

    assert (await verified(pool)).differences == []
