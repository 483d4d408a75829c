"""``python -m producers``: Kraken's WebSocket into Redis Streams."""

import asyncio
import socket
import sys

from kraken_history import telemetry
from kraken_history.processes import connect_redis, run_service, run_until
from kraken_history.publisher import Publisher
from kraken_history.settings import Settings
from producers.feed import Feed


async def produce(settings: Settings, stop: asyncio.Event) -> None:
    """Publish until told to stop, then publish what still waits."""
    redis = await connect_redis(settings.require_redis_url())
    publisher = Publisher(
        redis,
        shards=settings.stream_shards,
        stream_max_entries=settings.stream_max_entries,
        publish_after_s=settings.publish_after_s,
        entry_max_trades=settings.entry_max_trades,
        buffer_max_trades=settings.publish_buffer_max_trades,
        dead_letters_max=settings.dead_letters_max,
    )
    feed = Feed(
        publisher,
        url=settings.kraken_ws_url,
        symbols=settings.symbols,
        ack_timeout_s=settings.ack_timeout_s,
        silence_timeout_s=settings.silence_timeout_s,
    )

    def facts() -> dict[str, object]:
        return {
            "healthy": feed.connected and not publisher.is_held_back,
            "system": feed.system,
            "refused": feed.refused,
            "sessions": feed.sessions,
            "published_trades": publisher.published_trades,
            "let_go_trades": publisher.let_go_trades,
            "last_ids": feed.last_ids,
        }

    async with redis, publisher:
        beat = telemetry.beat(redis, "producer", socket.gethostname(), facts)
        await run_until(stop, feed.run(), beat)


if __name__ == "__main__":
    sys.exit(run_service("producer", produce))
