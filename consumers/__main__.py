"""``python -m consumers``: Redis Streams into the database."""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from functools import partial

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from consumers.consumer import Consumer
from consumers.sharing import SharedConsumer
from kraken_history.clock import utc_now
from kraken_history.database.connections import connection_error, create_pool, leaving_in_time
from kraken_history.database.failures import UNAVAILABLE
from kraken_history.database.migrations import check_schema
from kraken_history.database.roles import check_may_store
from kraken_history.database.watching import SessionWatch, watching
from kraken_history.fetching.queue import JobQueue, queue_on
from kraken_history.runtime import liveness, telemetry
from kraken_history.runtime.clocks import Clocks
from kraken_history.runtime.patience import when_available
from kraken_history.runtime.processes import run_service, run_until
from kraken_history.runtime.redis_access import connect_both
from kraken_history.runtime.redis_connections import prefix_of
from kraken_history.runtime.signs import ConsumerSign
from kraken_history.settings import Settings
from kraken_history.storing.store import Store
from kraken_history.stream import wire
from kraken_history.stream.shards import claim_shards

_log = telemetry.get_logger("consumer")

_ANSWERS_WITHIN_S = 2.0  # a database that takes longer for nothing counts as away


async def consume(settings: Settings, stop: asyncio.Event) -> None:
    """Store the entries of the streams until ``stop`` is set; then finish the batch, acknowledge it and return."""
    url = settings.require_database_url()
    redis_urls = settings.require_redis_url(), settings.require_jobs_redis_url()
    watch = SessionWatch(_log.warning)
    async with AsyncExitStack() as stack:
        pool = await when_available("database", lambda: _open_pool(settings, url, watch), stop, _log)
        await stack.enter_async_context(leaving_in_time(pool, stop))
        redis, jobs_redis = await when_available(
            "redis", lambda: stack.enter_async_context(connect_both(*redis_urls)), stop, _log
        )
        async with watching(url, watch):
            await _consume(settings, stop, pool, redis, jobs_redis, watch)


async def _open_pool(settings: Settings, url: str, watch: SessionWatch) -> asyncpg.Pool:
    # A connection for each shard, because this consumer may be the only one.
    most, patience_s = settings.stream_shards + 1, settings.write_timeout_s
    pool = await create_pool(url, min_size=1, max_size=most, command_timeout_s=patience_s, sessions=watch.sessions)
    try:
        async with pool.acquire() as connection:
            await check_schema(connection)
            await check_may_store(connection)
    except BaseException as error:
        pool.terminate()
        if isinstance(error, UNAVAILABLE):
            raise connection_error(error, url) from error
        raise
    return pool


async def _consume(
    settings: Settings, stop: asyncio.Event, pool: asyncpg.Pool, redis: Redis, jobs_redis: Redis, watch: SessionWatch
) -> None:
    jobs = JobQueue(queue_on(jobs_redis), heal_delay_s=settings.heal_delay_s)
    await claim_shards(redis, settings.stream_shards)
    prefix, store = prefix_of(redis), Store(pool, doubts_leaps=True)

    def consume(shard: int) -> Consumer:
        return Consumer(
            redis,
            store,
            name=settings.consumer_name,
            streams=[wire.trades_stream(shard, prefix), wire.candles_stream(shard, prefix)],
            batch_max_rows=settings.batch_max_rows,
            batch_max_age_s=settings.batch_max_age_s,
            reclaim_after_s=settings.reclaim_after_s,
            dead_letters_max=settings.dead_letters_max,
            shards=settings.stream_shards,
            takes_over=True,
            on_holes=jobs.heal_new_holes,
        )

    async def can_store() -> bool:
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                await pool.execute("SELECT 1")
        except UNAVAILABLE:
            return False
        return True

    consumer = SharedConsumer(redis, consume, can_store, name=settings.consumer_name, shards=settings.stream_shards)

    beat = liveness.beat(jobs_redis, settings.consumer_name, partial(sign_of, consumer, watch), Clocks())
    finished = asyncio.Event()
    await run_until(finished, _consume_then(consumer, stop, finished), beat)


def sign_of(consumer: SharedConsumer, watch: SessionWatch) -> ConsumerSign:
    """The consumer's current sign of life."""
    trouble = dict(consumer.trouble)
    if watch.wait:  # rather than that the last try had no answer
        trouble["database"] = watch.wait
    return ConsumerSign(
        pid=os.getpid(),
        at=utc_now(),
        healthy=consumer.is_well and not watch.wait,
        trouble=trouble,
        new_trades=consumer.new_trades,
        known_trades=consumer.known_trades,
        batches=consumer.batches,
        shards=consumer.shards,
    )


async def _consume_then(consumer: SharedConsumer, stop: asyncio.Event, finished: asyncio.Event) -> None:
    await consumer.run(stop)
    finished.set()


if __name__ == "__main__":
    sys.exit(run_service("consumer", consume, outages=(RedisError, *UNAVAILABLE)))
