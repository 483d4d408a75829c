"""``python -m producers``: Kraken's WebSocket into Redis Streams."""

import asyncio
import os
import socket
import sys
from contextlib import AsyncExitStack
from functools import partial

from redis.asyncio import Redis

from kraken_history.clock import utc_now
from kraken_history.fetching.queue import JobQueue, queue_on
from kraken_history.runtime import liveness, telemetry
from kraken_history.runtime.clocks import Clocks, OtherClock
from kraken_history.runtime.patience import when_available
from kraken_history.runtime.processes import run_service, run_until
from kraken_history.runtime.redis_access import connect_both
from kraken_history.runtime.signs import ProducerSign
from kraken_history.settings import Settings
from kraken_history.stream.publisher import Publisher
from producers.feed import Feed


async def produce(settings: Settings, stop: asyncio.Event) -> None:
    """Publish until ``stop`` is set, then publish the remaining trades and candles."""
    urls = settings.require_redis_url(), settings.require_jobs_redis_url()
    async with AsyncExitStack() as stack:
        streams, jobs_redis = await when_available(
            "redis", lambda: stack.enter_async_context(connect_both(*urls)), stop, telemetry.get_logger("producer")
        )
        await _produce(settings, stop, streams, jobs_redis)


async def _produce(settings: Settings, stop: asyncio.Event, streams: Redis, jobs_redis: Redis) -> None:
    kraken = OtherClock()
    publisher = Publisher(
        streams,
        shards=settings.stream_shards,
        stream_max_entries=settings.stream_max_entries,
        publish_after_s=settings.publish_after_s,
        entry_max_trades=settings.entry_max_trades,
        buffer_max_trades=settings.publish_buffer_max_trades,
        dead_letters_max=settings.dead_letters_max,
        now=kraken.now,
    )
    jobs = JobQueue(queue_on(jobs_redis), heal_delay_s=settings.heal_delay_s)
    connected = asyncio.Event()
    feed = Feed(
        publisher,
        url=settings.kraken_ws_url,
        symbols=settings.symbols,
        ack_timeout_s=settings.ack_timeout_s,
        silence_timeout_s=settings.silence_timeout_s,
        on_connected=connected.set,
        clock=kraken,
    )

    async def ask_for_gaps() -> None:
        """Request gap filling after each connection, because trades before it may have been missed."""
        while True:
            await connected.wait()
            connected.clear()
            await jobs.fill_gaps_after_connecting(feed.symbols)

    async with publisher:
        beat = liveness.beat(jobs_redis, socket.gethostname(), partial(sign_of, feed, publisher), Clocks(kraken))
        await run_until(stop, feed.run(), publisher.failure(), beat, ask_for_gaps())


def sign_of(feed: Feed, publisher: Publisher) -> ProducerSign:
    """The producer's current sign of life."""
    trouble = {}
    if feed.waiting_for:
        trouble["start"] = feed.waiting_for
    elif not feed.connected:
        trouble["kraken" if feed.trouble else "start"] = feed.trouble or "connecting to Kraken"
    if publisher.is_held_back:
        trouble["redis"] = "Redis is away or full: trades wait in the producer"
    return ProducerSign(
        pid=os.getpid(),
        at=utc_now(),
        healthy=not trouble,
        trouble=trouble,
        system=feed.system,
        refused=feed.refused,
        sessions=feed.sessions,
        published_trades=publisher.published_trades,
        let_go_trades=publisher.let_go_trades,
        last_ids=feed.last_ids,
    )


if __name__ == "__main__":
    sys.exit(run_service("producer", produce))
