"""The arq worker: ``arq jobs.worker.WorkerSettings``."""

import asyncio
import os
import socket
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, ClassVar

from arq import cron
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from arq.cron import CronJob
from arq.typing import WorkerCoroutine
from arq.worker import Function, func

from jobs.aggregates import AFTER_GRACE_S, refresh_aggregates
from jobs.backfill import backfill, sweep_backfills
from jobs.context import WorkerContext
from jobs.csv_import import IMPORT_TRIES, TIMEOUT_S, import_csv
from jobs.ending import Ending
from jobs.figures import keep_figures
from jobs.gaps import EVERY_MINUTES, fill_gap, fill_gaps, look_names_up
from jobs.heal import heal, sweep
from jobs.indicators import fetch_indicators
from jobs.longer_history import fetch_ohlc, fetch_ohlc_of_all
from jobs.partitions import apply_retention, make_partitions
from jobs.patience import PatientRedis
from kraken_history.clock import utc_now
from kraken_history.database.connections import create_pool, leaving_in_time
from kraken_history.database.migrations import check_schema
from kraken_history.errors import HistoryError, UsageError
from kraken_history.fetching.queue import (
    BACKFILL,
    FETCH_OHLC,
    FILL_GAP,
    HEAL,
    IMPORT_CSV,
    REFRESH,
    SWEEP_BACKFILLS,
    JobQueue,
    decode_job,
    encode_job,
    redis_settings,
)
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.limiter import RateLimiter
from kraken_history.kraken.resolver import Resolver
from kraken_history.runtime import liveness, telemetry
from kraken_history.runtime.processes import EXIT_FAILED, EXIT_USAGE, see_that_redis_answers
from kraken_history.runtime.signs import WorkerSign
from kraken_history.runtime.tasks import end
from kraken_history.settings import Settings, load_settings
from kraken_history.storing.store import Store

_MAX_TRIES = 100  # each stop of a worker counts as one; after the last, the sweep enqueues the job again


async def start(ctx: dict[str, Any]) -> None:
    """Open the resources of the jobs. If the database or a setting cannot be used, print one line and exit."""
    main = asyncio.current_task()
    assert main is not None
    ending = ctx["ending"] = Ending(main)
    if main.cancelling():  # by a signal before arq called this, which was lost
        raise asyncio.CancelledError
    settings = load_settings()
    telemetry.configure_logging(settings.log_level, as_json=settings.log_json)
    stack = ctx["stack"] = AsyncExitStack()
    try:
        telemetry.serve_metrics(settings.metrics_port)
        ctx["context"] = await _open(settings, stack, ctx["redis"], ending.begun)
    except HistoryError as error:
        await stack.aclose()
        _leave(error)
    context: WorkerContext = ctx["context"]
    ctx["background"] = [
        asyncio.create_task(liveness.beat(ctx["redis"], socket.gethostname(), partial(sign_of, context))),
        asyncio.create_task(keep_figures(context, ctx["redis"])),
        asyncio.create_task(look_names_up(ctx)),
    ]
    await forget_jobs_at_work(ctx["redis"])
    await fetch_ohlc_of_all(ctx)
    await sweep(ctx)
    await fill_gaps(ctx)
    await make_partitions(ctx)
    await sweep_backfills(ctx)
    # The leases of this worker's predecessor may not have run out yet.
    await context.jobs.sweep_backfills(delay_s=context.settings.backfill_lease_s)


async def forget_jobs_at_work(arq: ArqRedis) -> int:
    """Release the jobs of a killed worker at once; return how many.

    arq marks each running job for as long as the longest job may take, and gives the job to no other worker
    meanwhile: after a SIGKILL that would be hours. A job of a live worker may then run twice at the same time. That
    costs some calls and does no harm, because the database decides which work is done.
    """
    keys = [key async for key in arq.scan_iter(match=f"{in_progress_key_prefix}*", count=1000)]
    return int(await arq.delete(*keys)) if keys else 0


async def _open(settings: Settings, stack: AsyncExitStack, arq: ArqRedis, stop: asyncio.Event) -> WorkerContext:
    pool = await create_pool(settings.require_database_url(), min_size=1, max_size=WorkerSettings.max_jobs + 1)
    await stack.enter_async_context(leaving_in_time(pool, stop))
    async with pool.acquire() as connection:
        await check_schema(connection)
    limiter = RateLimiter(arq, settings.pacing)
    rest = await stack.enter_async_context(KrakenRest(settings.kraken_rest_url, limiter))
    jobs = JobQueue(arq, heal_delay_s=settings.heal_delay_s)
    return WorkerContext(settings, pool, Store(pool), rest, Resolver(rest.fetch_asset_pairs), jobs)


def sign_of(context: WorkerContext) -> WorkerSign:
    """This worker's current sign of life."""
    return WorkerSign(
        pid=os.getpid(),
        at=utc_now(),
        healthy=True,
        symbols=tuple(context.symbols),
        history_days=context.settings.history_days,
    )


async def finish(ctx: dict[str, Any]) -> None:
    """Close everything that :func:`start` opened, even if it did not finish."""
    if "ending" in ctx:
        await ctx["ending"].is_over()
    await end(*ctx.get("background", ()))
    if "stack" in ctx:
        await ctx["stack"].aclose()


def _leave(error: HistoryError) -> None:
    print(f"worker: {error}", file=sys.stderr)  # noqa: T201 — the one line that the user reads
    sys.exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED)


def _redis_url() -> str:
    try:
        url = load_settings().require_redis_url()
        see_that_redis_answers(url)  # arq would retry for a long time and end with a traceback
        return url
    except HistoryError as error:
        _leave(error)
        raise


_REDIS_URL = _redis_url()


class WorkerSettings:
    """The settings that arq reads."""

    functions: ClassVar[list[Function | WorkerCoroutine]] = [
        func(heal, name=HEAL, keep_result=0, max_tries=_MAX_TRIES),
        func(backfill, name=BACKFILL, keep_result=0, max_tries=_MAX_TRIES),
        func(sweep_backfills, name=SWEEP_BACKFILLS, keep_result=0),
        func(fill_gap, name=FILL_GAP, keep_result=0, max_tries=_MAX_TRIES),
        func(fetch_ohlc, name=FETCH_OHLC, keep_result=0, max_tries=_MAX_TRIES),
        func(refresh_aggregates, name=REFRESH, keep_result=0, max_tries=1),
        func(import_csv, name=IMPORT_CSV, keep_result=0, max_tries=IMPORT_TRIES, timeout=TIMEOUT_S),
    ]
    cron_jobs: ClassVar[list[CronJob]] = [
        cron(sweep, second={0, 30}, run_at_startup=False, keep_result=0),
        cron(refresh_aggregates, second=AFTER_GRACE_S, keep_result=0, max_tries=1),
        cron(make_partitions, minute=7, keep_result=0),
        cron(apply_retention, minute=37, keep_result=0, max_tries=1),
        cron(fetch_indicators, hour=0, minute=17, keep_result=0, max_tries=3),
        cron(sweep_backfills, second={15, 45}, run_at_startup=False, keep_result=0),
        cron(fetch_ohlc_of_all, minute=set(range(0, 60, EVERY_MINUTES)), run_at_startup=False, keep_result=0),
        cron(fill_gaps, minute=set(range(0, 60, EVERY_MINUTES)), run_at_startup=False, keep_result=0),
    ]
    on_startup = start
    on_shutdown = finish
    redis_pool = PatientRedis.at(_REDIS_URL)
    redis_settings = redis_settings(_REDIS_URL)  # for ``arq --check``
    job_serializer = encode_job
    job_deserializer = decode_job
    max_jobs = 10
    job_timeout = 900  # five attempts at a call, with the longest pauses, take less
    keep_result = 0
    health_check_interval = 10
