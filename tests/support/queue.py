"""arq's queue, as the jobs find it."""

from arq import create_pool
from arq.connections import ArqRedis

from kraken_history.fetching.queue import decode_job, encode_job, redis_settings


async def connect_queue(redis_url: str) -> ArqRedis:
    """Open the queue."""
    return await create_pool(redis_settings(redis_url), job_serializer=encode_job, job_deserializer=decode_job)
