"""``python -m consumers``: Redis Streams into the database."""

import asyncio
import os
import sys
from functools import partial

from redis.exceptions import RedisError

from consumers.consumer import Consumer
from kraken_history.clock import utc_now
from kraken_history.database.connections import UNAVAILABLE, create_pool, leaving_in_time
from kraken_history.database.migrations import check_schema
from kraken_history.database.roles import check_may_store
from kraken_history.fetching.queue import JobQueue, queue_on
from kraken_history.runtime import liveness
from kraken_history.runtime.processes import run_service, run_until
from kraken_history.runtime.redis_access import connect_both
from kraken_history.runtime.redis_connections import prefix_of
from kraken_history.runtime.signs import ConsumerSign
from kraken_history.settings import Settings
from kraken_history.storing.store import Store
from kraken_history.stream import wire


async def consume(settings: Settings, stop: asyncio.Event) -> None:
    """Store the entries of the streams until ``stop`` is set; then finish the batch, acknowledge it and return."""
    url = settings.require_database_url()
    redis_urls = settings.require_redis_url(), settings.require_jobs_redis_url()
    pool = await create_pool(url, min_size=1, max_size=2, command_timeout_s=settings.write_timeout_s)
    async with leaving_in_time(pool, stop):
        async with pool.acquire() as connection:
            await check_schema(connection)
            await check_may_store(connection)
        async with connect_both(*redis_urls) as (redis, jobs_redis):
            jobs = JobQueue(queue_on(jobs_redis), heal_delay_s=settings.heal_delay_s)
            shards, prefix = range(settings.stream_shards), prefix_of(redis)
            consumer = Consumer(
                redis,
                Store(pool),
                name=settings.consumer_name,
                streams=[of_kind(n, prefix) for n in shards for of_kind in (wire.trades_stream, wire.candles_stream)],
                batch_max_rows=settings.batch_max_rows,
                batch_max_age_s=settings.batch_max_age_s,
                reclaim_after_s=settings.reclaim_after_s,
                dead_letters_max=settings.dead_letters_max,
                shards=settings.stream_shards,
                on_holes=jobs.heal_new_holes,
            )

            beat = liveness.beat(jobs_redis, settings.consumer_name, partial(sign_of, consumer))
            finished = asyncio.Event()
            await run_until(finished, _consume_then(consumer, stop, finished), beat)


def sign_of(consumer: Consumer) -> ConsumerSign:
    """The consumer's current sign of life."""
    return ConsumerSign(
        pid=os.getpid(),
        at=utc_now(),
        healthy=consumer.is_well,
        trouble=consumer.trouble,
        new_trades=consumer.new_trades,
        known_trades=consumer.known_trades,
        batches=consumer.batches,
    )


async def _consume_then(consumer: Consumer, stop: asyncio.Event, finished: asyncio.Event) -> None:
    await consumer.run(stop)
    finished.set()


if __name__ == "__main__":
    sys.exit(run_service("consumer", consume, outages=(RedisError, *UNAVAILABLE)))
