"""Runs a job again soon if the database failed it, instead of leaving it to the next sweep or search for gaps."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar, cast

import asyncpg
from arq import Retry

from jobs.context import WorkerContext
from kraken_history.database.failures import is_transient
from kraken_history.errors import ServiceUnavailable
from kraken_history.runtime import telemetry

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 4.0
"""Longest pause before a job that met a database error runs again, in seconds. An outage that ends is noticed by then.

It is less than the 5 s after which missing trades must be fetched once all servers answer again.
"""

_TRIES_IN_A_TURN = 6  # 19 s; the sweeps run every 30 s

Job = TypeVar("Job", bound=Callable[..., Coroutine[Any, Any, Any]])
Ctx = dict[str, Any]

_log = telemetry.get_logger("worker")


def again_soon(job: Job) -> Job:
    """If a job meets an error of the database that may pass, run it again after 1, 2, then every 4 s.

    Each run counts as one of the job's tries.
    """

    @wraps(job)
    async def run(ctx: Ctx, *args: Any, **kwargs: Any) -> Any:
        try:
            return await job(ctx, *args, **kwargs)
        except Exception as error:
            if not await is_outage(ctx, error, job.__name__):
                raise
            raise Retry(defer=retry_after_s(ctx.get("job_try", 1))) from error

    return cast(Job, run)


def within_its_turn(job: Job) -> Job:
    """If a job that runs by the clock meets an error of the database that may pass, try for a while, then skip a turn.

    arq does not retry such jobs soon: it marks each as being at work for a minute.
    """

    @wraps(job)
    async def run(ctx: Ctx) -> Any:
        for number in range(1, _TRIES_IN_A_TURN + 1):
            try:
                return await job(ctx)
            except Exception as error:
                if not await is_outage(ctx, error, job.__name__):
                    raise
            await asyncio.sleep(retry_after_s(number))
        return 0

    return cast(Job, run)


async def is_outage(ctx: Ctx, error: Exception, name: str) -> bool:
    """Whether an error is one of the database that may pass; if so, log it, and leave a server that takes no writes."""
    if isinstance(error, (Retry, ServiceUnavailable)) or not is_transient(error):
        return False
    await leave_if_read_only(ctx, error)
    _log.warning("job_postponed", job=name, reason=" ".join((str(error) or type(error).__name__).split()))
    return True


async def leave_if_read_only(ctx: Ctx, error: Exception) -> None:
    """Replace all connections if the server takes no writes: their address may lead to another one by now."""
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        context: WorkerContext = ctx["context"]
        await context.pool.expire_connections()
        await context.unhurried_pool.expire_connections()


def retry_after_s(job_try: int) -> float:
    """Seconds until the next try."""
    return float(min(FIRST_RETRY_S * 2 ** min(job_try - 1, 10), LONGEST_RETRY_S))
