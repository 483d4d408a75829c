"""The queue of jobs, as the worker finds it."""

from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool

from kraken_history.fetching.queue_redis import QueueRedis
from kraken_history.runtime.redis_connections import pool_at


async def connect_queue(redis_url: str) -> ArqRedis:
    """Open the queue."""
    redis = QueueRedis(pool_at(redis_url, ConnectionPool))
    redis.auto_close_connection_pool = True
    await redis.ping()
    return redis
