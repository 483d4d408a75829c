"""Several consumers on one Redis: each reads its share of the shards while others come and go."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from consumers.consumer import Consumer
from consumers.leases import Leases, lease_key, quota
from consumers.sharing import SharedConsumer
from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalCandle, HistoricalTrade
from kraken_history.storing.store import Store, Stored
from kraken_history.stream import wire
from kraken_history.stream.shards import WrongShards
from tests.support.database import stored_ids
from tests.support.proxy import Proxy
from tests.support.records import trade, trades
from tests.support.waiting import until

SHARDS = 4


class Cluster:
    """Consumers of one Redis, and who of them stores what."""

    def __init__(self, redis: Redis, pool: asyncpg.Pool, *, shards: int = SHARDS, every_s: float = 0.03) -> None:
        self.redis = redis
        self.pool = pool
        self.shards = shards
        self.every_s = every_s
        self.consumers: dict[str, SharedConsumer] = {}
        self.stops: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.databases: dict[str, Store] = {}
        self.holes: list[dict[str, IdRanges]] = []

    def start(self, name: str, *, redis: Redis | None = None, store: Store | None = None, **settings: Any) -> None:
        link, database = redis or self.redis, store or Store(self.pool)

        async def on_holes(holes: dict[str, IdRanges]) -> None:
            self.holes += [{symbol: missing} for symbol, missing in holes.items() if missing]

        def consume(shard: int) -> Consumer:
            streams = [wire.trades_stream(shard), wire.candles_stream(shard)]
            return Consumer(
                link,
                database,
                name=name,
                streams=streams,
                batch_max_age_s=0.01,
                takes_over=True,
                on_holes=on_holes,
            )

        async def can_store() -> bool:
            return await database.answers() if isinstance(database, Halting) else True

        defaults: dict[str, Any] = {"every_s": self.every_s, "lasts_s": 0.6}
        consumer = SharedConsumer(link, consume, can_store, name=name, shards=self.shards, **(defaults | settings))
        self.consumers[name], self.stops[name] = consumer, asyncio.Event()
        self.tasks[name] = asyncio.create_task(consumer.run(self.stops[name]))

    async def stop(self, name: str) -> None:
        self.stops[name].set()
        await self.tasks.pop(name)
        del self.consumers[name]

    async def kill(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.gather(self.tasks.pop(name), return_exceptions=True)
        del self.consumers[name]

    def counts(self) -> list[int]:
        """How many shards each consumer reads, the most first; an exception if one has failed."""
        for task in self.tasks.values():
            if task.done():
                task.result()
        return sorted((len(consumer.shards) for consumer in self.consumers.values()), reverse=True)

    def are_shared(self, *counts: int) -> bool:
        """True if the consumers read so many shards, and each shard is read once."""
        read = Counter(shard for consumer in self.consumers.values() for shard in consumer.shards)
        return self.counts() == list(counts) and read == Counter(range(self.shards))


@asynccontextmanager
async def cluster_of(redis: Redis, pool: asyncpg.Pool, **settings: Any) -> AsyncIterator[Cluster]:
    cluster = Cluster(redis, pool, **settings)
    try:
        yield cluster
    finally:
        for name in list(cluster.tasks):
            await cluster.kill(name)


@pytest.fixture
async def cluster(redis: Redis, pool: asyncpg.Pool) -> AsyncIterator[Cluster]:
    async with cluster_of(redis, pool) as cluster:
        yield cluster


def symbol_of(shard: int, shards: int = SHARDS) -> str:
    return next(f"S{n}/USD" for n in range(1000) if wire.shard_of(f"S{n}/USD", shards) == shard)


async def publish(redis: Redis, records: Sequence[HistoricalTrade], shards: int = SHARDS) -> None:
    await redis.xadd(wire.trades_stream(wire.shard_of(records[0].symbol, shards)), wire.encode(records))


class Halting(Store):
    """Never answers, or is away, as long as it should."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        super().__init__(pool)
        self.is_away = False
        self.halts = False
        self.does_not_answer = False
        self.writes = 0
        self.asked = 0

    async def answers(self) -> bool:
        self.asked += 1
        return not self.is_away and not self.does_not_answer

    async def write(
        self,
        trades: Sequence[HistoricalTrade] = (),
        candles: Sequence[HistoricalCandle] = (),
        **options: Any,
    ) -> Stored:
        self.writes += 1
        if self.is_away:
            raise ConnectionRefusedError("no route to the database")
        if self.halts:
            await asyncio.Event().wait()
        return await super().write(trades, candles, **options)


class TestQuota:
    @pytest.mark.parametrize(
        ("held", "shards", "expected"),
        [
            ({"a": 0}, 4, {"a": 4}),
            ({"a": 4, "b": 0}, 4, {"a": 2, "b": 2}),
            ({"a": 0, "b": 3, "c": 1}, 4, {"a": 1, "b": 2, "c": 1}),
            ({"a": 0, "b": 1}, 1, {"a": 0, "b": 1}),
            ({"a": 0, "b": 0, "c": 0}, 2, {"a": 1, "b": 1, "c": 0}),
        ],
    )
    def test_shards_are_shared_evenly_and_move_no_more_than_they_must(
        self, held: dict[str, int], shards: int, expected: dict[str, int]
    ) -> None:
        assert {name: quota(name, held, shards) for name in held} == expected

    def test_a_consumer_that_cannot_store_gets_none(self) -> None:
        assert quota("c", {"a": 1, "b": 1}, 4) == 0


# None of this depends on how tables are divided by time.
@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
class TestSharing:
    async def test_consumers_that_come_and_stop_leave_each_a_fair_share(self, cluster: Cluster) -> None:
        cluster.start("a")
        await until(lambda: cluster.are_shared(4))
        cluster.start("b")
        await until(lambda: cluster.are_shared(2, 2))
        cluster.start("c")
        await until(lambda: cluster.are_shared(2, 1, 1))
        cluster.start("d")
        cluster.start("e")
        await until(lambda: cluster.are_shared(1, 1, 1, 1, 0))
        for name, counts in (("a", (1, 1, 1, 1)), ("b", (2, 1, 1)), ("c", (2, 2)), ("d", (4,))):
            await cluster.stop(name)
            await until(lambda counts=counts: cluster.are_shared(*counts))  # type: ignore[misc]

    async def test_a_stopped_consumer_leaves_no_lease_and_no_name(self, cluster: Cluster) -> None:
        cluster.start("a")
        await until(lambda: cluster.are_shared(4))

        await cluster.stop("a")

        assert [await cluster.redis.exists(lease_key(shard, "kraken")) for shard in range(SHARDS)] == [0] * SHARDS
        assert await cluster.redis.zrange("kraken:consumers", 0, -1) == []

    async def test_nothing_is_pending_and_nothing_missing_while_shards_move(
        self, cluster: Cluster, pool: asyncpg.Pool
    ) -> None:
        """Two readers of one stream stored its trades out of order, and asked for 17 holes that were none."""
        cluster.start("a", lasts_s=60)
        symbols = [symbol_of(shard) for shard in range(SHARDS)]
        for turn in range(60):
            for symbol in symbols:
                await publish(cluster.redis, trades(range(5 * turn, 5 * turn + 5), symbol))
            if turn in (10, 20, 30):
                cluster.start("abcd"[turn // 10], lasts_s=60)
            if turn == 45:
                await cluster.stop("b")
            await asyncio.sleep(0.01)
        wanted = sorted(list(range(300)) * SHARDS)
        await until(lambda: _stored(pool, wanted))

        assert cluster.holes == []

    async def test_the_shards_and_pending_entries_of_a_killed_consumer_move_at_once(
        self, cluster: Cluster, pool: asyncpg.Pool
    ) -> None:
        store = Halting(pool)
        store.halts = True
        cluster.start("a", store=store)
        await until(lambda: cluster.are_shared(4))
        await publish(cluster.redis, trades(range(10), symbol_of(0)))
        await until(lambda: store.writes)
        await cluster.kill("a")
        cluster.start("b")

        await until(lambda: cluster.are_shared(4), timeout_s=10)
        await until(lambda: _stored(pool, list(range(10))), timeout_s=10)  # reclaiming would take 30 s

    async def test_a_restarted_consumer_has_its_shards_at_once(self, cluster: Cluster) -> None:
        cluster.start("a", lasts_s=3600)
        await until(lambda: cluster.are_shared(4))
        await cluster.kill("a")
        cluster.start("a", lasts_s=3600)

        await until(lambda: cluster.are_shared(4))

    async def test_a_lease_that_another_consumer_took_is_respected(self, cluster: Cluster) -> None:
        cluster.start("a")
        await until(lambda: cluster.are_shared(4))
        await cluster.redis.set(lease_key(2, "kraken"), "b", ex=3600)

        await until(lambda: cluster.consumers["a"].shards == (0, 1, 3))

    async def test_a_redis_that_was_wiped_is_shared_again(self, cluster: Cluster, pool: asyncpg.Pool) -> None:
        for name in "ab":
            cluster.start(name)
        await until(lambda: cluster.are_shared(2, 2))
        await cluster.redis.flushall()
        for shard in range(SHARDS):
            await publish(cluster.redis, trades(range(3), symbol_of(shard)))

        await until(lambda: _stored(pool, sorted([0, 1, 2] * SHARDS)))
        await until(lambda: cluster.are_shared(2, 2))

    async def test_a_consumer_without_redis_waits_and_goes_on(
        self, cluster: Cluster, pool: asyncpg.Pool, redis_url: str
    ) -> None:
        async with Proxy(redis_url) as proxy, Redis.from_url(proxy.url) as own:
            cluster.start("a", redis=own)
            cluster.start("b")
            await until(lambda: cluster.are_shared(2, 2))
            await proxy.cut()
            await until(lambda: "redis" in cluster.consumers["a"].trouble)
            await until(lambda: len(cluster.consumers["b"].shards) == SHARDS)
            for shard in range(SHARDS):
                await publish(cluster.redis, trades(range(3), symbol_of(shard)))
            await until(lambda: _stored(pool, sorted([0, 1, 2] * SHARDS)))
            await proxy.restore()
            await until(lambda: cluster.are_shared(2, 2))
            await until(lambda: cluster.consumers["a"].is_well)
            await cluster.kill("a")

    async def test_a_consumer_without_database_leaves_its_shards_to_one_that_has_it(
        self, cluster: Cluster, pool: asyncpg.Pool
    ) -> None:
        store = Halting(pool)
        cluster.start("a", store=store, gives_up_after_s=0.2, tries_again_after_s=0.2)
        await until(lambda: cluster.are_shared(4))
        store.is_away = True
        cluster.start("b")
        await until(lambda: cluster.are_shared(2, 2))
        for shard in range(SHARDS):
            await publish(cluster.redis, trades(range(3), symbol_of(shard)))

        await until(lambda: _stored(pool, sorted([0, 1, 2] * SHARDS)))
        assert "database" in cluster.consumers["a"].trouble
        store.is_away = False
        await until(lambda: cluster.are_shared(2, 2))
        await until(lambda: cluster.consumers["a"].is_well)

    async def test_a_consumer_whose_writes_get_no_answer_leaves_its_shards_to_another(
        self, cluster: Cluster, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("consumers.consumer.STUCK_AFTER_S", 0.2)
        store = Halting(pool)
        store.halts = store.does_not_answer = True
        cluster.start("a", store=store)
        await until(lambda: cluster.are_shared(4))
        await publish(cluster.redis, trades(range(3), symbol_of(0)))
        await until(lambda: store.writes)
        cluster.start("b", lasts_s=60)

        await until(lambda: len(cluster.consumers["b"].shards) == SHARDS)
        await until(lambda: _stored(pool, [0, 1, 2]))

    async def test_a_write_that_waits_for_a_lock_moves_no_shard(
        self, cluster: Cluster, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("consumers.consumer.STUCK_AFTER_S", 0.1)
        store = Halting(pool)
        store.halts = True
        cluster.start("a", store=store, lasts_s=60)
        cluster.start("b", lasts_s=60)
        await until(lambda: cluster.are_shared(2, 2))
        shard = cluster.consumers["a"].shards[0]
        await publish(cluster.redis, trades(range(3), symbol_of(shard)))
        await until(lambda: not cluster.consumers["a"].is_well)
        await until(lambda: store.asked > 3)

        assert cluster.are_shared(2, 2)
        assert shard in cluster.consumers["a"].shards

    async def test_the_only_consumer_keeps_its_shards_while_the_database_is_away(
        self, cluster: Cluster, pool: asyncpg.Pool
    ) -> None:
        store = Halting(pool)
        store.is_away = True
        cluster.start("a", store=store, gives_up_after_s=0.1)
        await publish(cluster.redis, [trade(1, symbol_of(1))])
        await until(lambda: cluster.consumers["a"]._gave_up_at is not None)
        shards = cluster.consumers["a"].shards
        store.is_away = False

        await until(lambda: cluster.consumers["a"].is_well)
        assert shards == (0, 1, 2, 3)
        assert cluster.consumers["a"].new_trades == 1

    async def test_what_was_counted_of_a_shard_stays_counted(self, cluster: Cluster) -> None:
        cluster.start("a")
        await publish(cluster.redis, trades(range(3), symbol_of(3)))
        await until(lambda: cluster.consumers["a"].new_trades == 3)
        cluster.start("b")
        await until(lambda: cluster.are_shared(2, 2))

        assert cluster.consumers["a"].new_trades + cluster.consumers["b"].known_trades >= 3
        assert cluster.consumers["a"].batches == 1

    async def test_another_number_of_shards_ends_a_running_consumer(self, cluster: Cluster) -> None:
        cluster.start("a")
        await until(lambda: cluster.are_shared(4))
        task = cluster.tasks.pop("a")
        await cluster.redis.set("kraken:shards", 2)

        with pytest.raises(WrongShards, match="STREAM_SHARDS is 4, but the streams in this Redis are divided into 2"):
            await task


class TestLeases:
    async def test_only_one_of_two_gets_a_lease_and_only_its_holder_gives_it_back(self, redis: Redis) -> None:
        a, b = (Leases(redis, name=name, shards=2) for name in "ab")

        assert [await a.take(0), await b.take(0)] == [True, False]
        await b.give_back([0, 1])
        assert await b.renew() == {0: "a"}
        await a.give_back([0])
        assert await b.take(0)

    async def test_a_lease_that_is_not_renewed_is_free_after_its_time(self, redis: Redis) -> None:
        a = Leases(redis, name="a", shards=1, lasts_s=0.05)
        await a.take(0)
        await a.report(is_able=True)

        await until(lambda: _is_taken(Leases(redis, name="b", shards=1)))
        assert await Leases(redis, name="b", shards=1).report(is_able=True) == ["b"]


async def _is_taken(leases: Leases) -> bool:
    return await leases.take(0)


async def _stored(pool: asyncpg.Pool, ids: list[int]) -> bool:
    return sorted(await stored_ids(pool)) == ids
