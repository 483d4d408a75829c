"""A notice to those who request work while no worker runs."""

from redis.asyncio import Redis

from kraken_history.runtime import liveness
from kraken_history.runtime.signs import WorkerSign

NO_WORKER = "found no running worker: the work begins when one runs, for example with `kraken-history up`\n"


async def worker_notice(redis: Redis) -> str:
    """:data:`NO_WORKER`, or nothing if Redis holds a worker's sign of life that this version can read."""
    return "" if any((await liveness.signs_of_life(redis)).of(WorkerSign)) else NO_WORKER
