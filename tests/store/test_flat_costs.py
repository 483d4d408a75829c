"""What a write and a lookup touch does not grow with the number of holes, the history, or the age of a snapshot."""

import json
from datetime import timedelta

import asyncpg
import pytest

from kraken_history.completeness.hole_times import find_hole_spans, locate
from kraken_history.completeness.holes import find_due_holes, find_newest_due_holes
from kraken_history.ledger import IdRanges
from kraken_history.storing.partitions import ensure_partitions
from kraken_history.storing.store import Store
from tests.support.contents import ledger
from tests.support.examples import NOON, make_trade

SYMBOL = "BTC/USDT"
SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
HOLES = 2_500

_NEWEST = """
    SELECT highest_id FROM data_sync_status WHERE symbol = 'BTC/USDT' AND data_type = 'trades'
"""


async def versions(pool: asyncpg.Pool) -> dict[tuple[int, int], str]:
    """By run of unheld ids, the transaction that wrote its row."""
    rows = await pool.fetch("SELECT first_id, stop_id, xmin::text FROM unheld_ids")
    return {(row[0], row[1]): row[2] for row in rows}


async def store_holes(store: Store) -> None:
    """Every second id, one a minute."""
    await store.write([make_trade(2 * n, NOON + n * MINUTE) for n in range(1, HOLES + 2)])


async def test_a_write_replaces_the_runs_of_its_own_ids_only(store: Store, pool: asyncpg.Pool) -> None:
    await store_holes(store)
    before = await versions(pool)

    await store.write([make_trade(id_, NOON + id_ * MINUTE / 2) for id_ in (1_001, 2_002, 2 * HOLES + 9)])

    after = await versions(pool)
    assert before.keys() - after.keys() == {(1_001, 1_002)}
    assert after.keys() - before.keys() == {(2 * HOLES + 3, 2 * HOLES + 9)}
    assert all(after[run] == xmin for run, xmin in before.items() if run in after)


async def test_holes_of_a_range_are_looked_up_among_all(store: Store, pool: asyncpg.Pool) -> None:
    await store_holes(store)
    start = NOON + 700 * MINUTE

    async with pool.acquire() as connection:
        spans = await find_hole_spans(connection, SYMBOL, (start, start + MINUTE))

    assert spans == [(start - MINUTE, start + MINUTE), (start, start + 2 * MINUTE)]


async def test_the_newest_holes_are_found_without_the_others(store: Store, pool: asyncpg.Pool) -> None:
    await store_holes(store)
    now = NOON + 9 * DAY

    newest = (await find_newest_due_holes(pool, now=now))[SYMBOL]

    whole = (await find_due_holes(pool, now=now))[SYMBOL]
    assert len(whole.ranges) == HOLES
    assert newest == IdRanges(whole.ranges[-500:])


async def test_further_holes_are_found_if_the_newest_need_no_request(store: Store, pool: asyncpg.Pool) -> None:
    await store_holes(store)
    low = 2 * HOLES - 2_400
    await pool.execute(
        "INSERT INTO unreachable_trades (symbol, timestamp, ids)"
        " VALUES ($1, $2, int8multirange(int8range($3, 1000000)))",
        SYMBOL,
        NOON,
        low,
    )

    newest = (await find_newest_due_holes(pool, now=NOON + 9 * DAY))[SYMBOL]

    assert newest.ranges[-1] == (low - 1, low)
    assert 100 <= len(newest.ranges) <= 500


async def test_where_a_hole_lies_is_known_without_a_look_at_the_trades(store: Store, pool: asyncpg.Pool) -> None:
    """Each partition or chunk that a statement may read costs it several locks."""
    for at in range(0, 200, 20):
        await ensure_partitions(pool, "trades", [NOON + day * DAY for day in range(at, at + 20)])
        await store.write([make_trade(day + 1, NOON + day * DAY) for day in range(at, at + 20) if day != 77])

    async with pool.acquire() as connection, connection.transaction():
        located = await locate(connection, SYMBOL, (78, 79))
        locks = await connection.fetchval("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()")

    assert (located.start, located.end) == (NOON + 76 * DAY, NOON + 78 * DAY)
    assert locks < 15


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_the_newest_version_of_the_ledger_is_found_among_those_that_a_snapshot_keeps(
    store: Store, pool: asyncpg.Pool, migrated_database_url: str
) -> None:
    """While pg_dump ran, each write passed through all versions that the writes before had made."""
    await store.write([make_trade(1)])
    old = await asyncpg.connect(migrated_database_url)
    async with old.transaction(isolation="repeatable_read"):
        await old.fetchval(_NEWEST)
        for id_ in range(2, 602):
            await store.write([make_trade(id_, NOON + id_ * SECOND)])

        assert await old.fetchval(_NEWEST) == 1
        by_key = await pages_read(pool, _NEWEST)
        newest_first = await pages_read(pool, _NEWEST + " AND generation = newest_generation('BTC/USDT', 'trades')")

    await old.close()
    assert await pool.fetchval(_NEWEST) == 601
    assert await pool.fetchval("SELECT count(*) FROM data_sync_status") == 2
    assert by_key >= 15
    assert newest_first <= 8


async def pages_read(pool: asyncpg.Pool, query: str) -> int:
    """Pages of tables and indexes that a query looked at."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = off")
        await connection.execute("SET LOCAL enable_bitmapscan = off")
        plan = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}"))[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def test_a_ledger_whose_row_was_deleted_begins_anew(store: Store, pool: asyncpg.Pool) -> None:
    """Its runs of unheld ids went with it: they were between ids that nobody knows any more."""
    await store.write([make_trade(1), make_trade(9, NOON + MINUTE)])
    await pool.execute("DELETE FROM data_sync_status")

    await store.write([make_trade(20), make_trade(22, NOON + MINUTE)])

    assert await ledger(pool) == {SYMBOL: IdRanges([(20, 21), (22, 23)])}
    assert list(await versions(pool)) == [(21, 22)]
