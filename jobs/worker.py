"""The arq worker: ``arq jobs.worker.WorkerSettings``."""

import asyncio
import inspect
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, ClassVar

import arq.worker
import asyncpg
from arq import cron
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from arq.cron import CronJob
from arq.typing import WorkerCoroutine
from arq.worker import Function, func
from redis.asyncio import Redis
from redis.exceptions import RedisError

from jobs.aggregates import AFTER_GRACE_S, refresh_aggregates
from jobs.archive import ARCHIVE_TIMEOUT_S, update_archive
from jobs.backfill import backfill, sweep_backfills
from jobs.context import WorkerContext
from jobs.coverage import build_maps
from jobs.csv_import import IMPORT_TRIES, TIMEOUT_S, import_csv
from jobs.ending import Ending
from jobs.figures import keep_figures
from jobs.gaps import EVERY_MINUTES, fill_gap, fill_gaps, look_names_up
from jobs.heal import heal, sweep
from jobs.hole_bounds import TIMEOUT_S as LOOK_UP_TIMEOUT_S
from jobs.hole_bounds import look_up_hole_times
from jobs.indicators import fetch_indicator_history, fetch_indicators
from jobs.leaps import confirm, keep_confirming
from jobs.longer_history import fetch_ohlc, fetch_ohlc_of_all
from jobs.old_queue import take_over_old_jobs
from jobs.partitions import apply_retention, make_partitions
from jobs.patience import PatientRedis, log_redis_info
from jobs.patient_jobs import leave_if_read_only
from jobs.tails import TailWatch
from jobs.timing import Timing
from jobs.watching import JobWatch
from kraken_history.clock import utc_now
from kraken_history.database.connections import connection_error, create_pool, leaving_in_time
from kraken_history.database.failures import UNAVAILABLE, is_transient
from kraken_history.database.migrations import check_schema
from kraken_history.database.roles import check_is_owner
from kraken_history.database.watching import SessionWatch, watching
from kraken_history.errors import HistoryError, ServiceUnavailable, UsageError
from kraken_history.fetching.queue import (
    BACKFILL,
    CONFIRM,
    FETCH_INDICATOR_HISTORY,
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
from kraken_history.records import HistoricalTrade, RefusedTrade, UnreadableRow
from kraken_history.runtime import liveness, telemetry
from kraken_history.runtime.clocks import Clocks
from kraken_history.runtime.patience import AGAIN_AFTER_S, when_available
from kraken_history.runtime.processes import EXIT_FAILED, EXIT_USAGE
from kraken_history.runtime.redis_access import connect_streams, see_that_redis_answers
from kraken_history.runtime.signs import WorkerSign
from kraken_history.runtime.tasks import end
from kraken_history.settings import Settings, load_settings
from kraken_history.storing.store import Store
from kraken_history.stream.dead_letters import DeadLetters

_log = telemetry.get_logger("worker")

# arq's own ends the worker of a user who may not use INFO.
setattr(arq.worker, "log_redis_info", log_redis_info)  # noqa: B010 — arq does not export it

_LONG_STATEMENT_S = 3600.0
"""Maximum seconds of one statement of a refresh, of retention or of an import: so long may none of them take."""

_MOST_LONG = 4  # connections for such statements, in addition to one per job

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
        telemetry.serve_metrics(settings.metrics_port, settings.metrics_host)
        ctx["context"] = await _open(settings, stack, ctx["redis"], ending.begun)
    except HistoryError as error:
        await stack.aclose()
        _leave(error)
    context: WorkerContext = ctx["context"]
    watch, clocks = JobWatch(ending.worker), Clocks(context.rest.clock)
    look = partial(sign_of, context, watch)
    await clocks.ask(ctx["redis"])
    Timing(ending.worker, clocks.redis).take_over()
    ctx["background"] = [
        asyncio.create_task(watch.keep_looking()),
        asyncio.create_task(liveness.beat(ctx["redis"], socket.gethostname(), look, clocks)),
        asyncio.create_task(keep_figures(context, ctx["redis"])),
        asyncio.create_task(keep_confirming(context)),
        asyncio.create_task(TailWatch(context, ctx["redis"]).keep_looking()),
        asyncio.create_task(look_names_up(ctx)),
    ]
    await forget_jobs_at_work(ctx["redis"])
    if moved := await take_over_old_jobs(ctx["redis"], ending.worker.functions):
        telemetry.get_logger("worker").info("old_jobs_taken_over", jobs=moved)
    await request_known_work(ctx)
    await context.jobs.fetch_indicator_history()
    # The leases of this worker's predecessor may not have run out yet.
    await context.jobs.sweep_backfills(delay_s=context.settings.backfill_lease_s)


async def request_known_work(ctx: dict[str, Any], *, again_after_s: float = 3.0) -> None:
    """Request the work that the database knows of. While the database is away, or has no free connection, wait."""
    is_waiting = False
    for request in (fetch_ohlc_of_all, sweep, fill_gaps, make_partitions, sweep_backfills):
        while True:
            try:
                await inspect.unwrap(request)(ctx)  # not for a turn only
                break
            except Exception as error:
                if not is_transient(error):
                    raise
                if not is_waiting:
                    _log.warning("waiting", server="database", error=str(error) or type(error).__name__)
                is_waiting = True
                await leave_if_read_only(ctx, error)
            await asyncio.sleep(again_after_s)
    if is_waiting:
        _log.info("going_on", server="database")


async def forget_jobs_at_work(arq: ArqRedis) -> int:
    """Release the jobs of a killed worker at once; return how many.

    arq marks each running job for as long as the longest job may take, and gives the job to no other worker
    meanwhile: after a SIGKILL that would be hours. A job of a live worker may then run twice at the same time. That
    costs some calls and does no harm, because the database decides which work is done.
    """
    keys = [key async for key in arq.scan_iter(match=f"{in_progress_key_prefix}*", count=1000)]
    return int(await arq.delete(*keys)) if keys else 0


async def _open(settings: Settings, stack: AsyncExitStack, arq: ArqRedis, stop: asyncio.Event) -> WorkerContext:
    # A statement without a limit would outlive the job: asyncpg waits for the server to confirm a cancellation, for as
    # long as a statement may take.
    url, watch = settings.require_database_url(), SessionWatch(_log.warning)
    pool = await when_available("database", partial(_open_pool, settings, url, watch), stop, _log)
    await stack.enter_async_context(leaving_in_time(pool, stop))
    await stack.enter_async_context(watching(url, watch))
    long_pool = await create_pool(
        url, min_size=0, max_size=_MOST_LONG, command_timeout_s=_LONG_STATEMENT_S, sessions=watch.sessions
    )
    await stack.enter_async_context(leaving_in_time(long_pool, stop))
    limiter = RateLimiter(arq, settings.pacing)
    rest = await stack.enter_async_context(KrakenRest(settings.kraken_rest_url, limiter))
    jobs = JobQueue(arq, heal_delay_s=settings.heal_delay_s)
    streams = await when_available(
        "redis", lambda: stack.enter_async_context(streams_beside(arq, settings)), stop, _log
    )
    letters = DeadLetters(streams, max_letters=settings.dead_letters_max)
    store = Store(pool, put_aside=partial(keep_aside, letters, settings))
    pairs = Resolver(rest.fetch_asset_pairs)
    return WorkerContext(settings, pool, store, rest, pairs, jobs, long_pool, streams=streams)


async def _open_pool(settings: Settings, url: str, watch: SessionWatch) -> asyncpg.Pool:
    most, patience_s = WorkerSettings.max_jobs + 1, settings.write_timeout_s
    pool = await create_pool(url, min_size=1, max_size=most, command_timeout_s=patience_s, sessions=watch.sessions)
    try:
        async with pool.acquire() as connection:
            await check_schema(connection)
            await check_is_owner(connection)
    except BaseException as error:
        pool.terminate()
        if isinstance(error, UNAVAILABLE):
            raise connection_error(error, url) from error
        raise
    return pool


@asynccontextmanager
async def streams_beside(arq: ArqRedis, settings: Settings) -> AsyncIterator[Redis]:
    """The Redis of the streams, where the dead letters are: the worker's own, unless they are two."""
    url = settings.require_redis_url()
    if url == settings.require_jobs_redis_url():
        yield arq
    else:
        async with await connect_streams(url) as streams:
            yield streams


async def keep_aside(
    letters: DeadLetters,
    settings: Settings,
    refused: Sequence[RefusedTrade],
    reused: Sequence[HistoricalTrade],
    unreadable: Sequence[UnreadableRow],
) -> None:
    """Make dead letters of rows that REST showed and that are not stored. The database has recorded the trades."""
    try:
        await letters.put_rows_of_pages(refused)
        await letters.put_reused(reused, shards=settings.stream_shards)
        await letters.put_unreadable(unreadable)
    except (RedisError, OSError) as error:  # for example a full Redis: the trades of the page are stored all the same
        _log.warning("dead_letters_not_kept", error=str(error))


def sign_of(context: WorkerContext, watch: JobWatch) -> WorkerSign:
    """This worker's current sign of life."""
    return WorkerSign(
        pid=os.getpid(),
        at=utc_now(),
        healthy=not watch.trouble,
        trouble=watch.trouble,
        jobs=watch.long_jobs,
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
        settings = load_settings()
        url = settings.require_jobs_redis_url()
        _wait_for_redis(url, settings)  # arq would retry for some time, and then end with a traceback
        return url
    except HistoryError as error:
        _leave(error)
        raise


def _wait_for_redis(url: str, settings: Settings) -> None:
    is_waiting = False
    while True:
        try:
            see_that_redis_answers(url)
            break
        except ServiceUnavailable as error:
            if not is_waiting:
                telemetry.configure_logging(settings.log_level, as_json=settings.log_json)
                _log.warning("waiting", server="redis", error=str(error))
            is_waiting = True
        time.sleep(AGAIN_AFTER_S)
    if is_waiting:
        _log.info("going_on", server="redis")


_REDIS_URL = _redis_url()


class WorkerSettings:
    """The settings that arq reads."""

    functions: ClassVar[list[Function | WorkerCoroutine]] = [
        func(heal, name=HEAL, keep_result=0, max_tries=_MAX_TRIES),
        func(backfill, name=BACKFILL, keep_result=0, max_tries=_MAX_TRIES),
        func(sweep_backfills, name=SWEEP_BACKFILLS, keep_result=0),
        func(fill_gap, name=FILL_GAP, keep_result=0, max_tries=_MAX_TRIES),
        func(fetch_ohlc, name=FETCH_OHLC, keep_result=0, max_tries=_MAX_TRIES),
        func(confirm, name=CONFIRM, keep_result=0, max_tries=_MAX_TRIES),
        func(refresh_aggregates, name=REFRESH, keep_result=0, max_tries=1),
        func(fetch_indicator_history, name=FETCH_INDICATOR_HISTORY, keep_result=0, max_tries=1),
        func(import_csv, name=IMPORT_CSV, keep_result=0, max_tries=IMPORT_TRIES, timeout=TIMEOUT_S),
    ]
    cron_jobs: ClassVar[list[CronJob]] = [
        cron(sweep, second={0, 30}, run_at_startup=False, keep_result=0),
        cron(refresh_aggregates, second=AFTER_GRACE_S, keep_result=0, max_tries=1),
        cron(make_partitions, minute=7, keep_result=0),
        cron(build_maps, minute={3, 23, 43}, keep_result=0, max_tries=1),
        cron(apply_retention, minute=37, keep_result=0, max_tries=1),
        cron(look_up_hole_times, minute=22, run_at_startup=True, keep_result=0, timeout=LOOK_UP_TIMEOUT_S),
        cron(update_archive, minute=52, keep_result=0, max_tries=1, timeout=ARCHIVE_TIMEOUT_S),
        cron(fetch_indicators, hour=0, minute=17, keep_result=0, max_tries=3),
        cron(sweep_backfills, second={15, 45}, run_at_startup=False, keep_result=0),
        cron(fetch_ohlc_of_all, minute=set(range(0, 60, EVERY_MINUTES)), run_at_startup=False, keep_result=0),
        cron(fill_gaps, minute=set(range(0, 60, EVERY_MINUTES)), run_at_startup=False, keep_result=0),
    ]
    on_startup = start
    on_shutdown = finish
    redis_pool = PatientRedis.at(_REDIS_URL)
    queue_name = redis_pool.default_queue_name
    redis_settings = redis_settings(_REDIS_URL)  # for ``arq --check``
    job_serializer = encode_job
    job_deserializer = decode_job
    max_jobs = 10
    job_timeout = 900  # five attempts at a call, with the longest pauses, take less
    keep_result = 0
    health_check_interval = 10
