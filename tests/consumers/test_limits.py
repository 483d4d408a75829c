"""Limits of the server: of locks, memory and others. They are no fault of the data, until others can be stored."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from consumers import setbacks
from consumers.batch import Entry
from consumers.consumer import Consumer
from consumers.setbacks import HeldBack, divide_by_days
from kraken_history.records import HistoricalTrade
from kraken_history.storing.store import Store, Stored
from kraken_history.storing.widths import MOST_DAYS
from kraken_history.stream import wire
from kraken_history.stream.dead_letters import DeadLetters
from tests.support.database import stored_ids
from tests.support.examples import NOON, make_trade
from tests.support.records import trades
from tests.support.streams import STREAMS, is_settled, pending, publish
from tests.support.waiting import until

plain_only = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


@asynccontextmanager
async def consuming(redis: Redis, pool: asyncpg.Pool) -> AsyncIterator[Consumer]:
    consumer = Consumer(redis, Store(pool), name="a", streams=STREAMS, batch_max_age_s=0.01)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(consumer.run(stop))
        yield consumer
        stop.set()


async def limit(pool: asyncpg.Pool, condition: str, sqlstate: str = "53200") -> None:
    """Let each write of such trades fail as if the server had no memory for its locks."""
    await pool.execute(f"""
        CREATE OR REPLACE FUNCTION reach_limit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF {condition} THEN RAISE 'out of shared memory' USING ERRCODE = '{sqlstate}'; END IF;
            RETURN NEW;
        END $$;
        CREATE OR REPLACE TRIGGER reach_limit BEFORE INSERT ON trades FOR EACH ROW EXECUTE FUNCTION reach_limit();
    """)


async def dead_letters(redis: Redis) -> list[str]:
    return [letter.reason async for letter in DeadLetters(redis, max_letters=100).list()]


@plain_only
@pytest.mark.parametrize("sqlstate", ["53200", "54000", "XX000"])
async def test_a_limit_that_all_meet_is_waited_for_and_nothing_becomes_a_dead_letter(
    pool: asyncpg.Pool, redis: Redis, sqlstate: str
) -> None:
    # A full queue of notifications (54000) counted as bad data: 4,558 entries became dead letters.
    await limit(pool, "true", sqlstate)
    async with consuming(redis, pool) as consumer:
        await publish(redis, *(trades([id_]) for id_ in range(1, 8)))
        await until(lambda: consumer.trouble)
        await pool.execute("DROP TRIGGER reach_limit ON trades")
        await until(lambda: is_settled(redis))

    assert await stored_ids(pool) == list(range(1, 8))
    assert await dead_letters(redis) == []


@plain_only
async def test_one_symbol_at_a_limit_stops_no_other_and_is_put_aside_in_the_end(
    pool: asyncpg.Pool, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its entry was tried again for ever, and the stream stood still for all symbols.
    monkeypatch.setattr(setbacks, "_LONGEST_PAUSE_S", 0.0)
    await limit(pool, "NEW.symbol = 'THIN/USD'")
    async with consuming(redis, pool):
        await publish(redis, trades([1, 2], "THIN/USD"), *(trades([id_]) for id_ in range(1, 5)))
        newest = 4

        async def one_more_is_stored() -> bool:
            return len(await stored_ids(pool)) == newest

        await until(one_more_is_stored)
        while not await dead_letters(redis):
            newest += 1
            await publish(redis, trades([newest]))
            await until(one_more_is_stored)
            await asyncio.sleep(0.05)
        await until(lambda: is_settled(redis))

    assert await stored_ids(pool) == list(range(1, newest + 1))
    assert await dead_letters(redis) == ["OutOfMemoryError: out of shared memory"]


@plain_only
async def test_an_entry_that_is_held_back_stays_pending_at_a_stop(pool: asyncpg.Pool, redis: Redis) -> None:
    await limit(pool, "NEW.symbol = 'THIN/USD'")
    async with consuming(redis, pool) as consumer:
        await publish(redis, trades([1], "THIN/USD"), trades([1]))
        await until(lambda: consumer.new_trades)

    assert await pending(redis) == 1


async def test_entries_of_many_days_are_stored_beside_the_others(
    pool: asyncpg.Pool, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = [make_trade(1 + n, NOON - timedelta(days=n), "100", symbol="THIN/USD") for n in range(3 * MOST_DAYS)]
    writes: list[set[str]] = []
    write = Store.write

    async def noted(self: Store, some: Sequence[HistoricalTrade], *others: Any, **more: Any) -> Stored:
        writes.append({trade.symbol for trade in some})
        return await write(self, some, *others, **more)

    monkeypatch.setattr(Store, "write", noted)
    await publish(redis, wide, trades([1, 2]))
    async with consuming(redis, pool):
        await until(lambda: is_settled(redis))

    assert writes == [{"BTC/USDT"}, {"THIN/USD"}]
    assert len(await stored_ids(pool)) == len(wide) + 2


def entry(number: int, *days: int) -> Entry:
    rows = [make_trade(number, NOON + timedelta(days=day), "100") for day in days]
    return Entry(STREAMS[0], f"{number}-0".encode(), rows, [], {})


def test_entries_of_few_days_are_stored_at_once() -> None:
    entries = [entry(number, number % MOST_DAYS) for number in range(100)]

    assert divide_by_days(entries, most_later=10) == (entries, ())
    assert divide_by_days([], most_later=10) == ([], ())


def test_the_newest_entries_are_stored_first_and_a_bounded_number_waits() -> None:
    old, wide, new = entry(1, -500), entry(2, *range(-400, -300)), entry(3, 0)

    assert divide_by_days([old, wide, new], most_later=10) == ([old, new], [wide])
    assert divide_by_days([old, wide, new], most_later=0) == ([old, wide, new], [])
    assert divide_by_days([wide, old], most_later=1) == ([old], [wide])


def test_a_try_counts_against_an_entry_only_if_others_were_stored_meanwhile() -> None:
    held = HeldBack(Entry(STREAMS[0], b"1-0", [], [], {}), "out of memory", due_s=10.0, stored_then=3)

    for _ in range(20):
        held.note_failure("out of memory", now_s=10.0, stored=3)
    assert (held.failures, held.is_hopeless, held.due_s) == (1, False, 15.0)
    for stored in (4, 5, 6, 7):
        held.note_failure("out of memory", now_s=20.0, stored=stored)
    assert held.is_hopeless


def test_the_pauses_between_tries_grow() -> None:
    held = HeldBack(Entry(wire.trades_stream(0), b"1-0", [], [], {}), "out of memory", due_s=0.0, stored_then=0)
    pauses = []
    for _ in range(5):
        held.note_failure("out of memory", now_s=0.0, stored=0)
        pauses.append(held.due_s)

    assert pauses == [1, 2, 4, 5, 5]
