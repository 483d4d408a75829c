"""Taking a wrong trade out: the ledger, the candles and the longer candles are as if it had never come."""

from datetime import timedelta

import asyncpg
import pytest
from msgspec.structs import replace

from kraken_history.cli.removing import remove
from kraken_history.completeness.holes import find_holes
from kraken_history.errors import UsageError
from kraken_history.ledger import IdRanges
from kraken_history.reading.verification import verify
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.candle_deltas import build_candles
from kraken_history.storing.store import Store
from tests.support.command import Run
from tests.support.database import stored_candles, stored_ids
from tests.support.records import NOON, SPACING_S, trade, trades

SYMBOL = "BTC/USDT"
GOOD = trades(range(1, 200))
LATER = NOON + timedelta(days=1)


async def is_consistent(pool: asyncpg.Pool) -> bool:
    async with pool.acquire() as connection:
        found = await verify(connection)
        assert found.differences == []
        return found.is_right


@pytest.mark.parametrize("moment", [GOOD[100].timestamp, NOON + timedelta(seconds=SPACING_S * 200), LATER])
async def test_everything_is_as_if_it_had_never_come(
    pool: asyncpg.Pool, store: Store, migrated_database_url: str, moment: object
) -> None:
    poison = replace(trade(7), id=2**62, timestamp=moment)
    await store.write([*GOOD, poison])
    await refresh(pool, now=LATER + timedelta(days=9))
    assert (await find_holes(pool))[SYMBOL] == IdRanges([(200, 2**62)])
    symbol, times = await remove(migrated_database_url, "XBT/USDT", 2**62, "not Kraken's")

    assert (symbol, times) == (SYMBOL, [moment])
    assert await stored_ids(pool) == [each.id for each in GOOD]
    assert await stored_candles(pool) == build_candles(GOOD)
    assert await find_holes(pool) == {}
    assert await is_consistent(pool)
    row = await pool.fetchrow("SELECT total_records, newest_timestamp FROM data_sync_status WHERE data_type = 'trades'")
    assert tuple(row or ()) == (len(GOOD), GOOD[-1].timestamp)
    kept = await pool.fetchrow("SELECT id, price, reason, removed_by FROM removed_trades")
    assert tuple(kept or ())[:3] == (2**62, poison.price, "not Kraken's")


async def test_an_id_between_others_is_missing_so_that_it_is_fetched_again(
    pool: asyncpg.Pool, store: Store, migrated_database_url: str
) -> None:
    await store.write(GOOD)
    await remove(migrated_database_url, SYMBOL, 50, "wrong price")
    assert await find_holes(pool) == {SYMBOL: IdRanges([(50, 51)])}

    await store.write(GOOD)
    assert await stored_candles(pool) == build_candles(GOOD)
    assert await is_consistent(pool)


async def test_what_is_not_stored_cannot_be_removed(store: Store, migrated_database_url: str) -> None:
    await store.write(GOOD)
    with pytest.raises(UsageError, match="no trade 7000 of BTC/USDT is stored"):
        await remove(migrated_database_url, SYMBOL, 7_000, "x")


async def test_it_needs_the_owner(
    pool: asyncpg.Pool, store: Store, migrated_database_url: str, writer_url: str
) -> None:
    await store.write(GOOD)
    with pytest.raises(UsageError, match="expected the owner of the tables"):
        await remove(writer_url, SYMBOL, 50, "x")
    assert await is_consistent(pool)


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_the_command_says_what_it_did(migrated_database_url: str, command: Run) -> None:
    outcome = command("remove-trade", SYMBOL, "5", "--reason", "x", DATABASE_URL=migrated_database_url)

    assert (outcome.code, outcome.out) == (2, "")
    assert "BTC/USDT" in outcome.err
