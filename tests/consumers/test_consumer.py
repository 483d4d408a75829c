"""The consumer on a real Redis and a real database: nothing is lost, nothing is stored twice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

from consumers.consumer import Consumer
from kraken_history.database.connections import create_pool, leaving_in_time
from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalCandle, HistoricalTrade
from kraken_history.storing.candle_deltas import build_candles
from kraken_history.storing.store import Store, Stored
from kraken_history.stream import wire
from kraken_history.stream.dead_letters import DeadLetters
from tests.support.database import ledger, stored_candles, stored_ids, stored_trades
from tests.support.proxy import Proxy
from tests.support.records import candle, trade, trades
from tests.support.streams import STREAMS, is_settled, pending, publish
from tests.support.waiting import until

BTC, ETH = "BTC/USDT", "ETH/USDT"


def make(redis: Redis, store: Store, name: str = "a", **settings: Any) -> Consumer:
    return Consumer(redis, store, name=name, streams=STREAMS, **{"batch_max_age_s": 0.01, **settings})


@asynccontextmanager
async def running(*consumers: Consumer) -> AsyncIterator[None]:
    """Let them run, and kill them in the end; one that fails fails the test at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(consumer.run(asyncio.Event())) for consumer in consumers]
        yield
        for task in tasks:
            task.cancel()


class Recorded(Store):
    """Remembers how many rows each write had."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        super().__init__(pool)
        self.writes: list[int] = []

    async def write(
        self,
        trades: Sequence[HistoricalTrade] = (),
        candles: Sequence[HistoricalCandle] = (),
        **options: Any,
    ) -> Stored:
        self.writes.append(len(trades) + len(candles))
        return await super().write(trades, candles, **options)


class Stuck(Recorded):
    """Never comes back from a write, before or after it is committed."""

    def __init__(self, pool: asyncpg.Pool, *, commits: bool) -> None:
        super().__init__(pool)
        self._commits = commits
        self.is_stuck = False

    async def write(
        self,
        trades: Sequence[HistoricalTrade] = (),
        candles: Sequence[HistoricalCandle] = (),
        **options: Any,
    ) -> Stored:
        if self._commits:
            await super().write(trades, candles, **options)
        self.is_stuck = True
        await asyncio.Event().wait()
        raise AssertionError("nothing sets that event")


class TestBatches:
    async def test_trades_and_candles_of_all_streams_are_stored_and_acknowledged(
        self, pool: asyncpg.Pool, redis: Redis
    ) -> None:
        sent = [*trades(range(1, 31), BTC), *trades(range(1, 11), ETH)]
        other = candle(trades(range(100, 103)))
        await publish(redis, sent[:20], sent[20:30], sent[30:], [other])
        async with running(consumer := make(redis, Store(pool))):
            await until(lambda: is_settled(redis))
            await until(lambda: consumer.new_trades == 40)

        assert await stored_trades(pool) == sent
        assert await stored_candles(pool) == sorted(
            [*build_candles(sent), other], key=lambda candle: (candle.symbol, candle.timestamp)
        )
        assert await ledger(pool) == {BTC: IdRanges([(1, 31)]), ETH: IdRanges([(1, 11)])}

    async def test_a_batch_is_written_at_its_rows_without_waiting_for_its_age(
        self, pool: asyncpg.Pool, redis: Redis
    ) -> None:
        await publish(redis, *([trade(id_)] for id_ in range(60)))
        store = Recorded(pool)
        async with running(make(redis, store, batch_max_rows=20, batch_max_age_s=3600)):
            await until(lambda: len(store.writes) == 3)

        assert store.writes == [20, 20, 20]

    async def test_a_batch_is_written_at_its_age_without_waiting_for_its_rows(
        self, pool: asyncpg.Pool, redis: Redis
    ) -> None:
        store = Recorded(pool)
        async with running(make(redis, store, batch_max_rows=10**9, batch_max_age_s=0.1)):
            await publish(redis, *([trade(id_)] for id_ in range(3)))
            await until(lambda: is_settled(redis))

        assert sum(store.writes) == 3

    async def test_nothing_is_acknowledged_before_it_is_committed(self, pool: asyncpg.Pool, redis: Redis) -> None:
        await publish(redis, trades(range(5)))
        store = Stuck(pool, commits=False)
        async with running(make(redis, store)):
            await until(lambda: store.is_stuck)

            assert await pending(redis) == 1
            assert await stored_ids(pool) == []

    async def test_what_all_groups_have_acknowledged_is_trimmed(
        self, pool: asyncpg.Pool, redis: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("consumers.consumer._MAINTENANCE_EVERY_S", 0.05)
        await redis.xgroup_create(STREAMS[0], "research", id="0", mkstream=True)
        await publish(redis, *([trade(id_)] for id_ in range(9)))
        async with running(make(redis, Store(pool))):
            await until(lambda: is_settled(redis))
            await until(lambda: redis.exists(STREAMS[1]))
            assert await redis.xlen(STREAMS[0]) == 9
            (batch,) = await redis.xreadgroup("research", "x", {STREAMS[0]: ">"}, count=5)
            await redis.xack(STREAMS[0], "research", *(id_ for id_, _ in batch[1]))
            await until(lambda: has_length(redis, 4))

    async def test_holes_are_told_after_the_commit(self, pool: asyncpg.Pool, redis: Redis) -> None:
        told: list[dict[str, IdRanges]] = []

        async def on_holes(holes: dict[str, IdRanges]) -> None:
            assert await stored_ids(pool)
            told.append(holes)

        await publish(redis, [trade(1), trade(2), trade(5), trade(9)], [trade(7, ETH)])
        async with running(make(redis, Store(pool), on_holes=on_holes)):
            await until(lambda: is_settled(redis))
            await until(lambda: told)

        assert told == [{BTC: IdRanges([(3, 5), (6, 9)]), ETH: IdRanges()}]


async def has_length(redis: Redis, length: int) -> bool:
    return int(await redis.xlen(STREAMS[0])) == length


class TestStopping:
    async def test_told_to_stop_it_finishes_the_batch_acknowledges_and_leaves(
        self, pool: asyncpg.Pool, redis: Redis
    ) -> None:
        await publish(redis, *(trades(range(n, n + 10)) for n in range(0, 500, 10)))
        consumer = make(redis, Store(pool), batch_max_rows=10**9, batch_max_age_s=3600)
        stop = asyncio.Event()
        running_consumer = asyncio.create_task(consumer.run(stop))
        await until(lambda: pending_is(redis, 50))
        stop.set()
        await asyncio.wait_for(running_consumer, 10)

        assert (consumer.new_trades, consumer.batches) == (500, 1)
        assert await pending(redis) == 0
        assert len(await stored_ids(pool)) == 500

    async def test_told_to_stop_before_it_began_it_leaves(self, pool: asyncpg.Pool, redis: Redis) -> None:
        stop = asyncio.Event()
        stop.set()

        await asyncio.wait_for(make(redis, Store(pool)).run(stop), 10)

    async def test_told_to_stop_while_the_database_is_down_it_leaves_the_batch_to_the_next(
        self, pool: asyncpg.Pool, migrated_database_url: str, redis: Redis
    ) -> None:
        await publish(redis, trades(range(10)))
        async with (
            Proxy(migrated_database_url) as proxy,
            await create_pool(proxy.url, min_size=0, max_size=1) as cut_off,
        ):
            await proxy.cut()
            consumer = make(redis, Store(cut_off))
            stop = asyncio.Event()
            running_consumer = asyncio.create_task(consumer.run(stop))
            await until(lambda: "database" in consumer.trouble)
            stop.set()
            await asyncio.wait_for(running_consumer, 10)
        assert await pending(redis) == 1
        async with running(make(redis, Store(pool))):
            await until(lambda: is_settled(redis))
        assert await stored_ids(pool) == list(range(10))

    @pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
    async def test_told_to_stop_while_the_database_is_silent_it_leaves_the_batch_to_the_next(
        self, pool: asyncpg.Pool, migrated_database_url: str, redis: Redis
    ) -> None:
        stop = asyncio.Event()
        async with Proxy(migrated_database_url) as proxy:
            silent = await create_pool(proxy.url, min_size=1, max_size=2, command_timeout_s=60)
            proxy.silence()
            async with asyncio.timeout(10), leaving_in_time(silent, stop, within_s=0.1):
                await publish(redis, trades(range(10)))
                running_consumer = asyncio.create_task(make(redis, Store(silent)).run(stop))
                await until(lambda: pending_is(redis, 1))
                stop.set()
                await running_consumer
        assert await pending(redis) == 1
        async with running(make(redis, Store(pool))):
            await until(lambda: is_settled(redis))
        assert await stored_ids(pool) == list(range(10))

    async def test_told_to_stop_while_it_tells_of_holes_it_leaves(self, pool: asyncpg.Pool, redis: Redis) -> None:
        told = asyncio.Event()
        stop = asyncio.Event()

        async def on_holes(_: dict[str, IdRanges]) -> None:
            told.set()
            await asyncio.Event().wait()

        await publish(redis, trades(range(10)))
        running_consumer = asyncio.create_task(make(redis, Store(pool), on_holes=on_holes).run(stop))
        await told.wait()
        stop.set()
        await asyncio.wait_for(running_consumer, 10)


async def pending_is(redis: Redis, count: int) -> bool:
    return await pending(redis) == count


class TestCrashes:
    async def test_after_a_crash_between_commit_and_acknowledgement_everything_is_known(
        self, pool: asyncpg.Pool, redis: Redis
    ) -> None:
        await publish(redis, *(trades(range(n, n + 10)) for n in range(0, 50, 10)))
        store = Stuck(pool, commits=True)
        async with running(make(redis, store, batch_max_rows=50)):
            await until(lambda: store.is_stuck)
        assert len(await stored_ids(pool)) == 50
        assert await pending(redis) == 5
        async with running(again := make(redis, Store(pool))):
            await until(lambda: is_settled(redis))
            await until(lambda: again.known_trades == 50)

        assert again.new_trades == 0
        assert await stored_ids(pool) == list(range(50))

    async def test_a_consumer_that_died_in_mid_batch_goes_on_with_its_own_entries_first(
        self, pool: asyncpg.Pool, redis: Redis
    ) -> None:
        await publish(redis, trades(range(10)), trades(range(10, 20)))
        store = Stuck(pool, commits=False)
        async with running(make(redis, store)):
            await until(lambda: store.is_stuck)
        await publish(redis, trades(range(20, 30)))
        async with running(again := make(redis, Store(pool))):
            await until(lambda: is_settled(redis))
            await until(lambda: again.new_trades == 30)

        assert await stored_ids(pool) == list(range(30))

    async def test_what_a_dead_consumer_left_is_reclaimed_by_another(
        self, pool: asyncpg.Pool, redis: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("consumers.consumer._MAINTENANCE_EVERY_S", 0.05)
        await publish(redis, *([trade(id_)] for id_ in range(500)))
        store = Stuck(pool, commits=False)
        async with running(make(redis, store, "dead", batch_max_rows=100)):
            await until(lambda: store.is_stuck)
        left = await pending(redis)
        assert left
        async with running(other := make(redis, Store(pool), "other", reclaim_after_s=0.2)):
            await until(lambda: is_settled(redis))
            await until(lambda: other.new_trades == 500)

        assert await stored_ids(pool) == list(range(500))

    async def test_several_consumers_of_one_group_share_the_work(self, pool: asyncpg.Pool, redis: Redis) -> None:
        await publish(redis, *([trade(id_, BTC), trade(id_, ETH)] for id_ in range(900)))
        consumers = [make(redis, Store(pool), name, batch_max_rows=50) for name in "abc"]
        async with running(*consumers):
            await until(lambda: is_settled(redis))
            await until(lambda: sum(consumer.new_trades for consumer in consumers) == 1800)

        assert all(consumer.new_trades for consumer in consumers)
        assert sum(consumer.known_trades for consumer in consumers) == 0
        assert await stored_ids(pool) == [*range(900), *range(900)]

    async def test_two_groups_on_one_stream_each_get_everything(self, pool: asyncpg.Pool, redis: Redis) -> None:
        await publish(redis, *(trades(range(n, n + 10)) for n in range(0, 100, 10)))
        consumers = [make(redis, Store(pool), "a", group=group) for group in ("store", "research")]
        async with running(*consumers):
            await until(lambda: is_settled(redis, "store"))
            await until(lambda: is_settled(redis, "research"))
            await until(lambda: all(c.new_trades + c.known_trades == 100 for c in consumers))

        assert sum(consumer.new_trades for consumer in consumers) == 100
        assert await stored_ids(pool) == list(range(100))


class TestOutages:
    async def test_a_database_that_goes_down_and_comes_back_loses_nothing(
        self, pool: asyncpg.Pool, migrated_database_url: str, redis: Redis
    ) -> None:
        async with Proxy(migrated_database_url) as proxy, await create_pool(proxy.url, min_size=1, max_size=2) as own:
            async with running(consumer := make(redis, Store(own), batch_max_rows=20)):
                await publish(redis, trades(range(10)))
                await until(lambda: consumer.new_trades == 10)
                await proxy.cut()
                await publish(redis, *([trade(id_)] for id_ in range(10, 200)))
                await until(lambda: "database" in consumer.trouble)
                await proxy.restore()
                await until(lambda: is_settled(redis))
                await until(lambda: consumer.new_trades == 200)

                assert not consumer.trouble
            await proxy.cut()

        assert await stored_ids(pool) == list(range(200))

    async def test_a_redis_that_goes_away_and_comes_back_loses_nothing(
        self, pool: asyncpg.Pool, redis: Redis, redis_url: str
    ) -> None:
        async with (
            Proxy(redis_url) as proxy,
            Redis.from_url(proxy.url) as own,
            running(consumer := make(own, Store(pool))),
        ):
            await publish(redis, trades(range(10)))
            await until(lambda: consumer.new_trades == 10)
            await proxy.cut()
            await publish(redis, *(trades(range(n, n + 10)) for n in range(10, 50, 10)))
            await until(lambda: "redis" in consumer.trouble)
            await proxy.restore()
            await until(lambda: is_settled(redis))
            await until(lambda: not consumer.trouble)

        assert await stored_ids(pool) == list(range(50))

    async def test_an_acknowledgement_that_redis_did_not_get_comes_again_and_is_known(
        self, pool: asyncpg.Pool, redis: Redis, redis_url: str
    ) -> None:
        class CutAfterCommit(Store):
            async def write(self, *args: Any, **kwargs: Any) -> Stored:
                stored = await super().write(*args, **kwargs)
                if stored.new_trades:
                    await proxy.cut()
                return stored

        async with (
            Proxy(redis_url) as proxy,
            Redis.from_url(proxy.url) as own,
            running(consumer := make(own, CutAfterCommit(pool))),
        ):
            await publish(redis, trades(range(10)))
            await until(lambda: "redis" in consumer.trouble)
            assert await pending(redis) == 1
            await proxy.restore()
            await until(lambda: is_settled(redis))
            await until(lambda: consumer.known_trades >= 10)

        assert await stored_ids(pool) == list(range(10))

    async def test_holes_that_nobody_takes_keep_nothing_from_being_stored(
        self, pool: asyncpg.Pool, redis: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Its queue went silent, and with it the consumer, which waited for an answer before the next batch.
        monkeypatch.setattr("consumers.consumer.STUCK_AFTER_S", 0.1)
        takes = asyncio.Event()
        told: list[dict[str, IdRanges]] = []

        async def on_holes(holes: dict[str, IdRanges]) -> None:
            told.append(holes)
            await takes.wait()

        async with running(consumer := make(redis, Store(pool), on_holes=on_holes)):
            await publish(redis, [trade(1), trade(3)])
            await until(lambda: told)
            for id_ in (5, 7):
                await publish(redis, [trade(id_)], [trade(id_, ETH)])
                await until(lambda: is_settled(redis))
            await until(lambda: not consumer.is_well)
            takes.set()
            await until(lambda: consumer.is_well)

        assert await stored_ids(pool) == [1, 3, 5, 7, 5, 7]
        assert told[0] == {BTC: IdRanges([(2, 3)])}
        assert told[-1][BTC] == IdRanges([(2, 3), (4, 5), (6, 7)])
        assert told[-1][ETH] == IdRanges([(6, 7)])

    async def test_a_redis_that_was_wiped_is_read_on_from_its_new_beginning(
        self, pool: asyncpg.Pool, redis: Redis
    ) -> None:
        async with running(consumer := make(redis, Store(pool))):
            await publish(redis, trades(range(10)))
            await until(lambda: consumer.new_trades == 10)
            await redis.flushall()
            await publish(redis, trades(range(20, 30)))
            await until(lambda: consumer.new_trades == 20)
            await until(lambda: not consumer.trouble)

        assert await stored_ids(pool) == [*range(10), *range(20, 30)]

    async def test_entries_deleted_while_they_were_pending_are_done_with(
        self, pool: asyncpg.Pool, redis: Redis
    ) -> None:
        ids = await publish(redis, trades(range(5)), trades(range(5, 10)))
        store = Stuck(pool, commits=False)
        async with running(make(redis, store)):
            await until(lambda: store.is_stuck)
        await redis.xdel(STREAMS[0], ids[0])
        async with running(make(redis, Store(pool))):
            await until(lambda: is_settled(redis))

        assert await stored_ids(pool) == list(range(5, 10))


class TestDeadLetters:
    async def test_an_entry_that_cannot_be_decoded_is_buried_with_its_reason_and_the_others_stored(
        self, pool: asyncpg.Pool, redis: Redis
    ) -> None:
        unreadable: dict[bytes, bytes]
        for unreadable in (
            {b"v": b"1", b"d": b"\xc1"},
            {b"v": b"2", b"d": b"\x90"},
            {b"something": b"else"},
            {b"v": b"1", b"d": msgspec.msgpack.encode([[1, "BTC/USDT"]])},
        ):
            await redis.xadd(STREAMS[0], dict[Any, Any](unreadable))
            await publish(redis, [trade(len(await redis.xrange(STREAMS[0])))])
        async with running(consumer := make(redis, Store(pool))):
            await until(lambda: is_settled(redis))
            await until(lambda: consumer.new_trades == 4)

        letters = [letter async for letter in DeadLetters(redis, max_letters=10).list()]
        assert [letter.origin for letter in letters] == [STREAMS[0]] * 4
        assert [letter.fields for letter in letters][:3] == [
            {b"v": b"1", b"d": b"\xc1"},
            {b"v": b"2", b"d": b"\x90"},
            {b"something": b"else"},
        ]
        assert "got b'2'" in letters[1].reason
        assert all(letter.reason for letter in letters)
        assert await stored_ids(pool) == [1, 3, 5, 7]

    @pytest.mark.parametrize(
        "poison",
        [
            [msgspec.structs.replace(candle([trade(1000)]), interval_minutes=5)],
        ],
        ids=["a candle of five minutes"],
    )
    async def test_an_entry_that_the_database_refuses_is_found_and_buried_and_all_others_stored(
        self, pool: asyncpg.Pool, redis: Redis, poison: list[Any]
    ) -> None:
        await publish(redis, *([trade(id_)] for id_ in range(37)), poison, *([trade(id_)] for id_ in range(37, 64)))
        async with running(make(redis, Store(pool), batch_max_rows=64, batch_max_age_s=0.5)):
            await until(lambda: is_settled(redis))

        (letter,) = [letter async for letter in DeadLetters(redis, max_letters=10).list()]
        assert letter.fields == wire.encode(poison)
        assert letter.reason
        assert await stored_ids(pool) == list(range(64))

    async def test_several_poisoned_entries_in_one_batch_are_all_found(self, pool: asyncpg.Pool, redis: Redis) -> None:
        entries = [[trade(id_, misc="\0" if id_ % 5 == 0 else "")] for id_ in range(40)]
        await publish(redis, *entries)
        async with running(make(redis, Store(pool), batch_max_rows=40, batch_max_age_s=3600)):
            await until(lambda: is_settled(redis))

        letters = [letter async for letter in DeadLetters(redis, max_letters=100).list()]
        assert [wire.decode_trades(letter.fields)[0].id for letter in letters] == list(range(0, 40, 5))
        assert await stored_ids(pool) == [id_ for id_ in range(40) if id_ % 5]

    async def test_a_letter_replayed_is_stored_once_its_cause_is_gone(self, pool: asyncpg.Pool, redis: Redis) -> None:
        class Refusing(Store):
            async def write(self, *args: Any, **kwargs: Any) -> Stored:
                raise asyncpg.CheckViolationError("a constraint that is too strict")

        dead_letters = DeadLetters(redis, max_letters=10)
        await publish(redis, trades(range(5)))
        async with running(make(redis, Refusing(pool))):
            await until(lambda: is_settled(redis))
        (letter,) = [letter async for letter in dead_letters.list()]
        assert letter.reason == "CheckViolationError: a constraint that is too strict"
        await dead_letters.replay(letter, shards=1)
        async with running(make(redis, Store(pool))):
            await until(lambda: is_settled(redis))

        assert await stored_ids(pool) == list(range(5))
        assert [letter async for letter in dead_letters.list()] == []

    async def test_a_letter_that_redis_did_not_take_is_not_acknowledged(
        self, pool: asyncpg.Pool, redis: Redis, redis_url: str
    ) -> None:
        class CutBeforeBurial(Store):
            async def write(self, *args: Any, **kwargs: Any) -> Stored:
                await proxy.cut()
                raise asyncpg.DataError("refused")

        await publish(redis, trades(range(5)))
        async with (
            Proxy(redis_url) as proxy,
            Redis.from_url(proxy.url) as own,
            running(consumer := make(own, CutBeforeBurial(pool))),
        ):
            await until(lambda: "redis" in consumer.trouble)

        assert await pending(redis) == 1
        assert await redis.xlen(wire.DEAD_LETTERS) == 0
