"""The arq worker: ``arq jobs.worker.WorkerSettings``."""

import asyncio
import socket
import sys
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from arq import cron
from arq.connections import ArqRedis, RedisSettings
from arq.cron import CronJob
from arq.typing import WorkerCoroutine
from arq.worker import Function, func

from jobs.context import Pairs, WorkerContext
from jobs.heal import heal, sweep
from kraken_history import telemetry
from kraken_history.errors import HistoryError, UsageError
from kraken_history.job_queue import HEAL, JobQueue, decode_job, encode_job, redis_settings
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.limiter import RateLimiter
from kraken_history.migrations import check_schema
from kraken_history.postgres import create_pool
from kraken_history.processes import EXIT_FAILED, EXIT_USAGE
from kraken_history.settings import Settings, load_settings
from kraken_history.store import Store


async def start(ctx: dict[str, Any]) -> None:
    """Open what the jobs need; on a database or setting that will not do, say so in one line and leave."""
    settings = load_settings()
    telemetry.configure_logging(settings.log_level, as_json=settings.log_json)
    stack = ctx["stack"] = AsyncExitStack()
    try:
        telemetry.serve_metrics(settings.metrics_port)
        ctx["context"] = await _open(settings, stack, ctx["redis"])
    except HistoryError as error:
        await stack.aclose()
        _leave(error)
    ctx["beat"] = asyncio.create_task(telemetry.beat(ctx["redis"], "worker", socket.gethostname(), dict))
    await sweep(ctx)


async def _open(settings: Settings, stack: AsyncExitStack, arq: ArqRedis) -> WorkerContext:
    pool = await stack.enter_async_context(
        await create_pool(settings.require_database_url(), min_size=1, max_size=WorkerSettings.max_jobs + 1)
    )
    async with pool.acquire() as connection:
        await check_schema(connection)
    limiter = RateLimiter(arq, spacing_s=settings.rest_call_spacing_s, total_spacing_s=settings.rest_total_spacing_s)
    rest = await stack.enter_async_context(KrakenRest(settings.kraken_rest_url, limiter))
    jobs = JobQueue(arq, heal_delay_s=settings.heal_delay_s)
    return WorkerContext(settings, pool, Store(pool), rest, Pairs(rest), jobs)


async def finish(ctx: dict[str, Any]) -> None:
    """Close what :func:`start` opened."""
    if "beat" in ctx:
        ctx["beat"].cancel()
        await asyncio.gather(ctx["beat"], return_exceptions=True)
    await ctx["stack"].aclose()


def _leave(error: HistoryError) -> None:
    print(f"worker: {error}", file=sys.stderr)  # noqa: T201 — the one line that a user is to read
    sys.exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED)


def _redis_settings() -> RedisSettings:
    try:
        return redis_settings(load_settings().require_redis_url())
    except HistoryError as error:
        _leave(error)
        raise


class WorkerSettings:
    """What arq reads."""

    functions: ClassVar[list[Function | WorkerCoroutine]] = [func(heal, name=HEAL, keep_result=0, max_tries=3)]
    cron_jobs: ClassVar[list[CronJob]] = [cron(sweep, second={0, 30}, run_at_startup=False, keep_result=0)]
    on_startup = start
    on_shutdown = finish
    redis_settings = _redis_settings()
    job_serializer = encode_job
    job_deserializer = decode_job
    max_jobs = 10
    job_timeout = 300
    keep_result = 0
    health_check_interval = 10
