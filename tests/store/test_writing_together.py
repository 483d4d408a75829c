"""Any number of writers at once: no deadlock, no twin, no candle that disagrees with its trades."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

import asyncpg
import pytest

from kraken_history.database.connections import Connection, create_pool, write_again
from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalTrade
from kraken_history.storing.announcing import CANDLES_CHANNEL, announced_transaction
from kraken_history.storing.candle_deltas import build_candles
from kraken_history.storing.ledger_writing import lock_ledger, lock_symbol
from kraken_history.storing.store import Store, write_within
from tests.support.contents import everything, ledger, stored_candles, stored_trades, sync_status
from tests.support.examples import NOON, SYMBOLS, make_candle, make_trade
from tests.support.waiting import until

WRITERS = 4


@pytest.fixture
async def stores(migrated_database_url: str) -> AsyncIterator[list[Store]]:
    """As in four processes: each with connections of its own."""
    async with AsyncExitStack() as stack:
        pools = [await create_pool(migrated_database_url, min_size=1, max_size=2) for _ in range(WRITERS)]
        for pool in pools:
            stack.callback(pool.terminate)
        yield [Store(pool) for pool in pools]


def history(per_symbol: int, *, spread: timedelta = timedelta(seconds=1)) -> list[HistoricalTrade]:
    return [
        make_trade(id_, NOON + id_ * spread, f"{100 + id_ % 13}.5", f"0.{id_ % 7 + 1}", symbol=symbol)
        for symbol in SYMBOLS
        for id_ in range(1, per_symbol + 1)
    ]


async def test_writers_of_overlapping_batches_store_each_trade_once(stores: list[Store], pool: asyncpg.Pool) -> None:
    trades = history(300)
    chance = random.Random(2025)

    async def write_all(store: Store) -> int:
        mine = chance.sample(trades, k=len(trades))  # so batches overlap, and hold the symbols in any order
        return sum([(await store.write(mine[at : at + 90])).new_trades for at in range(0, len(mine), 90)])

    async with asyncio.timeout(60):
        new = await asyncio.gather(*map(write_all, stores))

    assert sum(new) == len(trades)
    assert await stored_trades(pool) == sorted(trades, key=lambda t: (t.symbol, t.id))
    assert await ledger(pool) == {symbol: IdRanges([(1, 301)]) for symbol in SYMBOLS}
    assert [row.candle for row in await stored_candles(pool)] == build_candles(trades)


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_another_default_isolation_lets_no_trade_in_twice(migrated_database_url: str, isolation: str) -> None:
    """A writer that waits for the ledger would read it as of before the other one's commit."""
    trades = history(40)
    async with await create_pool(migrated_database_url, min_size=1, max_size=1) as admin:
        name = await admin.fetchval("SELECT current_database()")
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'")
    async with await create_pool(migrated_database_url, min_size=4, max_size=4) as pool:
        assert await pool.fetchval("SHOW default_transaction_isolation") == isolation
        store = Store(pool)
        for at in range(0, len(trades), 10):
            written = await asyncio.gather(*(store.write(trades[at : at + 10]) for _ in range(4)))
            assert sum(each.new_trades for each in written) == 10

        assert await stored_trades(pool) == sorted(trades, key=lambda t: (t.symbol, t.id))


async def test_the_very_first_writers_of_a_symbol_open_its_ledger_once(stores: list[Store], pool: asyncpg.Pool) -> None:
    batches = [history(3), list(reversed(history(4))), history(2), list(reversed(history(3)))]

    async with asyncio.timeout(30):
        await asyncio.gather(*(store.write(batch) for store, batch in zip(stores, batches, strict=True)))

    assert await ledger(pool) == {symbol: IdRanges([(1, 5)]) for symbol in SYMBOLS}
    assert len(await stored_trades(pool)) == 12


async def test_a_writer_that_waits_for_a_new_symbol_holds_no_other(pool: asyncpg.Pool) -> None:
    """It held the symbols that were there already, so that the first writers of new ones could deadlock."""
    new, known = SYMBOLS[0], SYMBOLS[1]
    assert new < known
    async with pool.acquire() as first, pool.acquire() as second, pool.acquire() as third:
        async with third.transaction():
            await lock_symbol(third, known)

        opening = first.transaction()
        await opening.start()
        await lock_symbol(first, new)

        async def lock_both() -> None:
            async with second.transaction():
                await lock_ledger(second, [new, known], {})

        waiting = asyncio.create_task(lock_both())
        pid = second.get_server_pid()
        await until(lambda: pool.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid))
        async with third.transaction():
            await third.execute("SELECT FROM sync_keys WHERE symbol = $1 FOR UPDATE NOWAIT", known)
        await opening.rollback()
        await waiting


async def test_writers_of_trades_and_of_candles_do_not_lock_each_other_out(
    stores: list[Store], pool: asyncpg.Pool
) -> None:
    trades = history(120)
    fuller = [make_candle(NOON + timedelta(minutes=1), symbol=symbol, trade_count=500) for symbol in reversed(SYMBOLS)]

    # As every writer does: on TimescaleDB, two that create chunks may deadlock, whatever they write.
    async def write_trades(store: Store, order: Sequence[HistoricalTrade]) -> None:
        for at in range(0, len(order), 40):
            await write_again(partial(store.write, order[at : at + 40]))

    async def write_candles(store: Store) -> None:
        for _ in range(10):
            await write_again(partial(store.write, candles=fuller))

    async with asyncio.timeout(60):
        await asyncio.gather(
            write_trades(stores[0], trades),
            write_trades(stores[1], list(reversed(trades))),
            write_candles(stores[2]),
            write_candles(stores[3]),
        )

    # In either order, the ledger proves in the end that the minute of the fuller candles is complete.
    assert [row.candle for row in await stored_candles(pool)] == build_candles(trades)


async def test_a_write_that_is_cancelled_leaves_nothing(store: Store, pool: asyncpg.Pool) -> None:
    await store.write([make_trade(5)])
    async with pool.acquire() as other, other.transaction():
        await write_within(other, [make_trade(1)], [], candle_source="ohlc")
        waiting = asyncio.create_task(store.write([make_trade(1), make_trade(2)]))
        await until_somebody_waits_for_a_lock(pool)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    assert [trade.id for trade in await stored_trades(pool)] == [1, 5]


async def until_somebody_waits_for_a_lock(pool: asyncpg.Pool) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(10):
        while not await pool.fetchval(query):  # noqa: ASYNC110 — the server has no event to wait for
            await asyncio.sleep(0.005)


async def test_what_is_written_within_a_transaction_is_rolled_back_with_it(pool: asyncpg.Pool, store: Store) -> None:
    await store.write([make_trade(1)], [make_candle(trade_count=9)])
    before = await everything(pool)

    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await write_within(connection, [make_trade(2)], [make_candle(trade_count=10)], candle_source="ohlc")
        await transaction.rollback()

    assert await everything(pool) == before


# Telling who follows


async def test_followers_are_told_the_touched_minutes_after_the_commit(
    pool: asyncpg.Pool, store: Store, migrated_database_url: str
) -> None:
    await store.write([make_trade(1)])  # so that the partitions are there
    told: asyncio.Queue[object] = asyncio.Queue()
    follower: asyncpg.Connection = await asyncpg.connect(migrated_database_url)
    try:
        await follower.add_listener(CANDLES_CHANNEL, lambda *arguments: told.put_nowait(arguments[3]))
        trades = [
            make_trade(2, NOON + timedelta(minutes=5)),
            make_trade(3, NOON + timedelta(minutes=2)),
            make_trade(1, NOON + timedelta(minutes=9), symbol="ETH/USDT"),
        ]
        candles = [make_candle(NOON + timedelta(minutes=1))]

        async with pool.acquire() as connection, announced_transaction(connection):
            await write_within(connection, trades, candles, candle_source="ohlc")
            await follower.fetchval("SELECT 1")
            told_before = told.qsize()
        payload = await asyncio.wait_for(told.get(), 10)

        noon = int(NOON.timestamp())
        assert told_before == 0
        assert payload == f'[["BTC/USDT",{noon + 60},{noon + 300}],["ETH/USDT",{noon + 540},{noon + 540}]]'
    finally:
        await follower.close()


async def test_a_write_that_changes_no_minute_tells_nobody(store: Store, migrated_database_url: str) -> None:
    await store.write([make_trade(1)])
    told: asyncio.Queue[object] = asyncio.Queue()
    follower: asyncpg.Connection = await asyncpg.connect(migrated_database_url)
    try:
        await follower.add_listener(CANDLES_CHANNEL, lambda *arguments: told.put_nowait(arguments[3]))

        await store.write([make_trade(1)])
        await store.write([make_trade(2, NOON + timedelta(minutes=1))])
        first = await asyncio.wait_for(told.get(), 10)

        minute = int(NOON.timestamp()) + 60
        assert first == f'[["BTC/USDT",{minute},{minute}]]'
    finally:
        await follower.close()


async def test_a_notification_that_the_server_refuses_fails_no_write(
    migrated_database_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader sat in a transaction until the queue was full: COMMIT failed, and 4,558 entries became dead letters."""
    monkeypatch.setattr("kraken_history.storing.announcing._next_line_at", 0.0)
    setup: asyncpg.Connection = await asyncpg.connect(migrated_database_url)
    await setup.execute(
        """
        CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            RAISE 'too many notifications in the NOTIFY queue' USING ERRCODE = 'program_limit_exceeded';
        END $$;
        CREATE TABLE public.asked (at timestamptz DEFAULT now());
        CREATE FUNCTION public.pg_notification_queue_usage() RETURNS void LANGUAGE sql
            AS 'INSERT INTO public.asked DEFAULT VALUES';
        """
    )
    await setup.execute(f"ALTER DATABASE {await setup.fetchval('SELECT current_database()')} "
                        "SET search_path = public, pg_catalog")  # fmt: skip
    await setup.close()

    async with await create_pool(migrated_database_url, min_size=1, max_size=1) as pool:
        for id_ in (1, 2):
            await Store(pool).write([make_trade(id_)])
        stored = await stored_trades(pool)
        asked = await pool.fetchval("SELECT count(*) FROM public.asked")

    assert [trade.id for trade in stored] == [1, 2]
    assert asked == 2  # so that the server empties the queue, once the reader has gone
    assert [record.getMessage() for record in caplog.records] == ["followers_not_notified"]
    assert "NOTIFY queue" in caplog.records[0].error  # type: ignore[attr-defined]


async def test_a_write_that_fails_notifies_nobody(store: Store, migrated_database_url: str) -> None:
    async def fail(connection: Connection) -> None:
        await write_within(connection, [make_trade(1)], [], candle_source="ohlc")
        raise ZeroDivisionError

    told: asyncio.Queue[object] = asyncio.Queue()
    follower: asyncpg.Connection = await asyncpg.connect(migrated_database_url)
    try:
        await follower.add_listener(CANDLES_CHANNEL, lambda *arguments: told.put_nowait(arguments[3]))

        with pytest.raises(ZeroDivisionError):
            await store.transact([make_trade(1)], (), fail)
        await store.write([make_trade(2, NOON + timedelta(minutes=1))])
        first = await asyncio.wait_for(told.get(), 10)

        minute = int(NOON.timestamp()) + 60
        assert first == f'[["BTC/USDT",{minute},{minute}]]'
    finally:
        await follower.close()


async def test_a_write_of_very_many_symbols_fits_into_what_postgresql_can_tell(
    store: Store, pool: asyncpg.Pool
) -> None:
    trades = [make_trade(1, symbol=f"ASSET{n:011d}/QUOTE{n:011d}") for n in range(250)]

    stored = await store.write(trades)

    assert stored.new_trades == 250
    assert await sync_status(pool, trades[-1].symbol, "candles_1m") is not None
