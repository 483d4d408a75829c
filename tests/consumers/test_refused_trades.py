"""One row that cannot be stored takes only itself, on its way from a frame of Kraken's into the database."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
from redis.asyncio import Redis

from consumers.consumer import Consumer
from kraken_history.completeness.holes import find_holes
from kraken_history.kraken.websocket import Trades, decode_frame
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import MINUTE
from kraken_history.storing.store import Store
from kraken_history.stream import wire
from kraken_history.stream.dead_letters import DeadLetter, DeadLetters
from kraken_history.stream.publisher import Publisher
from tests.support.absent import absent_ids
from tests.support.database import stored_ids
from tests.support.records import NOON, trade, trades
from tests.support.streams import STREAMS, is_settled, publish
from tests.support.waiting import until

SYMBOL = "BTC/USDT"


@asynccontextmanager
async def consuming(redis: Redis, pool: asyncpg.Pool, **settings: Any) -> AsyncIterator[Consumer]:
    consumer = Consumer(redis, Store(pool), name="a", streams=STREAMS, **{"batch_max_age_s": 0.01, **settings})
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(consumer.run(stop))
        yield consumer
        await until(lambda: is_settled(redis))
        stop.set()


async def letters_of(redis: Redis) -> list[DeadLetter]:
    return [letter async for letter in DeadLetters(redis, max_letters=100).list()]


async def refused(pool: asyncpg.Pool) -> dict[int, str]:
    return {row["id"]: row["reason"] for row in await pool.fetch("SELECT id, reason FROM refused_trades ORDER BY id")}


def frame_row(id_: int, **changes: object) -> dict[str, object]:
    moment = f"2025-11-10T12:00:{id_ % 60:02}.000000Z"
    row = {"symbol": SYMBOL, "side": "buy", "price": 100.5, "qty": 0.5, "ord_type": "limit", "trade_id": id_}
    return row | {"timestamp": moment} | changes


async def test_of_a_frame_of_ten_with_one_of_volume_zero_nine_are_stored(
    pool: asyncpg.Pool, redis: Redis, migrated_database_url: str
) -> None:
    """All ten once became one dead letter, healing refused the page as well, and ten ids were missing for ever."""
    rows = [frame_row(id_, **({"qty": 0} if id_ == 25 else {})) for id_ in range(21, 31)]
    frame = decode_frame(json.dumps({"channel": "trade", "type": "update", "data": rows}))
    assert isinstance(frame, Trades)

    async with Publisher(redis) as publisher:
        publisher.add_trades(frame.trades)
        publisher.add_refused(frame.refused)
    async with consuming(redis, pool):
        pass

    assert await stored_ids(pool) == [*range(21, 25), *range(26, 31)]
    assert ["expected a positive price and volume" in reason for reason in (await refused(pool)).values()] == [True]
    assert await find_holes(pool) == {}
    async with HistoricalDataProvider(migrated_database_url) as history:
        coverage = await history.get_coverage(SYMBOL, NOON, NOON + MINUTE)
        before = await history.get_coverage(SYMBOL, NOON - MINUTE, NOON)
    assert [(each.id, each.timestamp and each.timestamp.second) for each in coverage.refused] == [(25, 25)]
    assert before.refused == []
    (letter,) = await letters_of(redis)
    assert json.loads(letter.fields[b"frame"])["data"][0]["trade_id"] == 25


async def test_a_bad_row_of_an_entry_takes_only_itself(pool: asyncpg.Pool, redis: Redis) -> None:
    """An entry of another producer, or of an older version."""
    rows: list[Any] = [msgspec.to_builtins(trade(id_), builtin_types=[type(NOON)]) for id_ in range(1, 6)]
    rows[2][4] = "0"
    rows[3][0] = "four"
    await redis.xadd(STREAMS[0], {b"v": b"1", b"d": msgspec.msgpack.encode(rows)})
    async with consuming(redis, pool):
        pass

    assert await stored_ids(pool) == [1, 2, 5]
    assert [*await refused(pool)] == [3]
    assert [(r[0], r[1]) for r in (await find_holes(pool))[SYMBOL]] == [(4, 5)]  # its id could not be read
    assert [letter.fields for letter in await letters_of(redis)] == [
        {b"v": b"1", b"d": msgspec.msgpack.encode([row])} for row in (rows[2], rows[3])
    ]


async def test_a_row_that_the_database_refuses_takes_only_itself(pool: asyncpg.Pool, redis: Redis) -> None:
    """The whole entry was once put aside, with all its good trades."""
    await publish(redis, [trade(id_, misc="a\0b" if id_ in (4, 9) else "") for id_ in range(1, 13)], trades([13]))
    async with consuming(redis, pool, batch_max_rows=13, batch_max_age_s=3600) as consumer:
        await until(lambda: consumer.new_trades == 11)

    assert await stored_ids(pool) == [id_ for id_ in range(1, 14) if id_ not in (4, 9)]
    assert {id_: "the database refuses it" in reason for id_, reason in (await refused(pool)).items()} == {
        4: True,
        9: True,
    }
    assert [wire.decode_trades(letter.fields)[0].id for letter in await letters_of(redis)] == [4, 9]
    assert await find_holes(pool) == {}


async def test_a_refused_trade_that_can_be_stored_later_is_stored(pool: asyncpg.Pool, redis: Redis) -> None:
    """For example by a new version, from the dead letter or by a backfill."""
    await pool.execute("ALTER TABLE trades ADD CONSTRAINT cheap CHECK (misc <> 'new')")
    await publish(redis, [trade(1), trade(2, misc="new"), trade(3)])
    async with consuming(redis, pool):
        pass
    assert [*await refused(pool)] == [2]

    await pool.execute("ALTER TABLE trades DROP CONSTRAINT cheap")
    (letter,) = await letters_of(redis)
    await DeadLetters(redis, max_letters=100).replay(letter, shards=1)
    async with consuming(redis, pool):
        pass

    assert await stored_ids(pool) == [1, 2, 3]
    assert await refused(pool) == {}
    assert await absent_ids(pool) == []


async def test_thirty_trades_with_known_ids_and_other_prices_are_counted_and_kept(
    pool: asyncpg.Pool, redis: Redis
) -> None:
    """They were once dropped without a word."""
    before = trades(range(1, 31))
    again = [
        msgspec.structs.replace(each, price=each.price + 7, timestamp=each.timestamp + 9 * MINUTE) for each in before
    ]
    await publish(redis, before, again, before, again)
    async with consuming(redis, pool) as consumer:
        await until(lambda: consumer.known_trades == 90)

    assert await pool.fetchval("SELECT sum(upper(r) - lower(r)) FROM reused_ids, unnest(ids) AS r") == 30
    (letter,) = await letters_of(redis)
    assert "belongs to another stored trade" in letter.reason
    assert wire.decode_trades(letter.fields) == again
    assert [each["price"] for each in await pool.fetch("SELECT price FROM trades ORDER BY id")] == [
        each.price for each in before
    ]
