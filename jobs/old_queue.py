"""Jobs that version 0.2 left in arq's common queue.

Version 0.2 used arq's own names, which other applications on the same Redis use too. The database knows all work except
requested imports of downloads, so these would be lost; and all of the old jobs would stay in the common queue.
"""

from collections.abc import Container
from typing import Any

import msgspec
from arq.connections import ArqRedis
from arq.constants import default_queue_name, in_progress_key_prefix, job_key_prefix, retry_key_prefix
from redis.asyncio import Redis
from redis.exceptions import ResponseError

_FIELDS = {"t", "f", "a", "k", "et"}


async def take_over_old_jobs(arq: ArqRedis, names: Container[str]) -> int:
    """Move our jobs from arq's common queue to ours; return how many.

    Args:
        names: Names of the functions that this worker runs. Only jobs of these, in our encoding, are touched.
    """
    as_is = Redis(connection_pool=arq.connection_pool)  # does not change arq's names
    try:
        queued = await as_is.zrange(default_queue_name, 0, -1, withscores=True)
    except ResponseError:  # this user may not see it, or it is no queue: then there are no jobs of ours in it
        return 0
    moved = 0
    for id_, score in queued:
        job = id_.decode(errors="replace")
        body = await as_is.get(f"{job_key_prefix}{job}")
        if body is None or not _is_ours(body, names):
            continue
        left_ms = max(int(await as_is.pttl(f"{job_key_prefix}{job}")), 1)
        # First added, then removed: if this is cut off between the two, the job runs twice, which does no harm.
        async with arq.pipeline(transaction=True) as pipeline:
            pipeline.psetex(f"{job_key_prefix}{job}", left_ms, body)
            pipeline.zadd(arq.default_queue_name, {job: score}, nx=True)
            await pipeline.execute()
        async with as_is.pipeline(transaction=True) as pipeline:
            pipeline.zrem(default_queue_name, job)
            pipeline.delete(*(f"{start}{job}" for start in (job_key_prefix, retry_key_prefix, in_progress_key_prefix)))
            await pipeline.execute()
        moved += 1
    return moved


def _is_ours(body: bytes, names: Container[str]) -> bool:
    try:
        job: Any = msgspec.msgpack.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(job, dict) and job.keys() == _FIELDS and isinstance(job["f"], str) and job["f"] in names
