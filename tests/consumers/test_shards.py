"""The number of shards: producers and consumers that disagree about it lose nothing in silence."""

import os
import subprocess
import sys

import pytest
from redis.asyncio import Redis

from consumers.leases import Leases
from kraken_history.runtime import liveness
from kraken_history.runtime.signs import ConsumerSign, ProducerSign, encode_sign
from kraken_history.stream import wire
from kraken_history.stream.publisher import Publisher
from kraken_history.stream.shards import WrongShards, claim_shards, fetch_shards, keep_shards
from tests.support.records import trade, trades
from tests.support.services import CONSUMER, REPOSITORY
from tests.support.signs import CONSUMER as CONSUMER_SIGN
from tests.support.signs import PRODUCER as PRODUCER_SIGN
from tests.support.streams import publish
from tests.support.waiting import until


async def drain(redis: Redis) -> None:
    """Read and acknowledge everything, as a consumer does."""
    stream = wire.trades_stream(0)
    await redis.xgroup_create(stream, wire.STORE_GROUP, id="0")
    ((_, entries),) = await redis.xreadgroup(wire.STORE_GROUP, "a", {stream: ">"})
    await redis.xack(stream, wire.STORE_GROUP, *(id_ for id_, _ in entries))


async def test_the_first_process_keeps_its_number_and_the_others_compare(redis: Redis) -> None:
    assert await fetch_shards(redis) is None
    await claim_shards(redis, 3)
    await claim_shards(redis, 3)
    await keep_shards(redis, 3)

    assert await fetch_shards(redis) == 3


async def test_another_number_is_refused_while_entries_wait(redis: Redis) -> None:
    await claim_shards(redis, 1)
    await publish(redis, trades(range(3)))

    with pytest.raises(WrongShards) as refusal:
        await claim_shards(redis, 4)
    assert str(refusal.value) == (
        "STREAM_SHARDS is 4, but the streams in this Redis are divided into 1: set STREAM_SHARDS=1."
        " To change the number (not possible now: 1 entries wait in kraken:trades:{0}), stop the producers, let the"
        " consumers drain the streams, stop the consumers, and start everything with the new number"
    )
    assert await fetch_shards(redis) == 1


@pytest.mark.parametrize("sign", [PRODUCER_SIGN, CONSUMER_SIGN], ids=["producer", "consumer"])
async def test_another_number_is_refused_while_a_process_runs(redis: Redis, sign: ProducerSign | ConsumerSign) -> None:
    await claim_shards(redis, 1)
    await redis.set(f"{liveness.HEALTH_PREFIX}{sign.service}:b", encode_sign(sign))

    with pytest.raises(WrongShards, match=f"a {sign.service} is running"):
        await claim_shards(redis, 4)


async def test_another_number_is_refused_while_a_consumer_holds_leases(redis: Redis) -> None:
    await claim_shards(redis, 1)
    await Leases(redis, name="a", shards=1).report(is_able=True)

    with pytest.raises(WrongShards, match="a consumer is running"):
        await claim_shards(redis, 4)


async def test_the_number_is_changed_when_nothing_waits_and_nobody_runs(redis: Redis) -> None:
    await claim_shards(redis, 1)
    await publish(redis, trades(range(3)))
    await drain(redis)

    await claim_shards(redis, 4)

    assert await fetch_shards(redis) == 4


async def test_a_publisher_with_another_number_does_not_begin(redis: Redis) -> None:
    await claim_shards(redis, 1)
    await publish(redis, trades(range(3)))

    with pytest.raises(WrongShards):
        async with Publisher(redis, shards=2):
            pass


async def test_a_publisher_ends_when_the_number_is_changed(redis: Redis) -> None:
    publisher = Publisher(redis, shards=2, publish_after_s=0.001)

    async def publish_until_it_fails() -> None:
        async with publisher:
            publisher.add_trades([trade(1)])
            await until(lambda: publisher.published_trades == 1)
            await redis.set("kraken:shards", 3)
            publisher.add_trades([trade(2)])
            await publisher.failure()

    with pytest.raises(WrongShards):
        await publish_until_it_fails()

    assert (publisher.published_trades, publisher.let_go_trades) == (1, 1)


async def test_a_publisher_keeps_the_number_again_in_a_wiped_redis(redis: Redis) -> None:
    async with Publisher(redis, shards=2, publish_after_s=0.001) as publisher:
        await redis.flushall()
        publisher.add_trades([trade(1)])
        await until(lambda: publisher.published_trades == 1)

        assert await fetch_shards(redis) == 2


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_consumer_with_another_number_says_so_in_one_line(
    redis: Redis, redis_url: str, migrated_database_url: str
) -> None:
    await claim_shards(redis, 4)
    await redis.xadd(wire.trades_stream(3), wire.encode(trades(range(3))))

    environment = {"DATABASE_URL": migrated_database_url, "REDIS_URL": redis_url, "STREAM_SHARDS": "1"}
    done = subprocess.run(  # noqa: ASYNC221 — nothing else runs meanwhile
        [sys.executable, *CONSUMER], cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True
    )

    assert done.returncode == 2
    assert done.stderr.startswith("consumer: STREAM_SHARDS is 1, but the streams in this Redis are divided into 4: set")
    assert done.stderr.count("\n") == 1
