"""Shared by the long-running processes: running, and stopping in time after a signal."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from redis.exceptions import RedisError

from kraken_history.errors import HistoryError, ServiceUnavailable, UsageError
from kraken_history.runtime import telemetry
from kraken_history.runtime.redis_access import connect_redis as connect_redis
from kraken_history.runtime.redis_access import see_that_redis_answers as see_that_redis_answers
from kraken_history.runtime.tasks import end
from kraken_history.settings import Settings, load_settings

EXIT_FAILED = 1
EXIT_USAGE = 2

_FINISH_S = 12.0  # part of the 20 s in which `up` lets a service stop; compose allows 30

_log = telemetry.get_logger("process")


async def run_until(stop: asyncio.Event, *forever: Coroutine[Any, Any, None]) -> None:
    """Run endless coroutines until ``stop`` is set or one of them fails, then cancel them.

    Raises:
        Exception: The exception of the first coroutine that failed.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in forever]
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await end(*tasks, stopping)


def run_service(
    name: str,
    main: Callable[[Settings, asyncio.Event], Awaitable[None]],
    *,
    outages: tuple[type[Exception], ...] = (RedisError, OSError),
) -> int:
    """Run a service until SIGTERM or SIGINT; return its exit code.

    Args:
        main: Takes the settings, and an event that is set when it must finish its work and return. It is cancelled if
            that takes longer than 12 s, which is more than it needs with servers that answer.
        outages: Exceptions which mean that a server of this service is unavailable.
    """
    try:
        settings = load_settings()
        telemetry.configure_logging(settings.log_level, as_json=settings.log_json)
        telemetry.serve_metrics(settings.metrics_port, settings.metrics_host)
        asyncio.run(_run(settings, main, outages))
    except HistoryError as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201 — the only line meant for the user
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    return 0


async def _run(
    settings: Settings,
    main: Callable[[Settings, asyncio.Event], Awaitable[None]],
    outages: tuple[type[Exception], ...],
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await finish_in_time(main(settings, stop), stop, outages=outages)


async def finish_in_time(
    main: Awaitable[None],
    stop: asyncio.Event,
    *,
    within_s: float = _FINISH_S,
    outages: tuple[type[Exception], ...] = (RedisError, OSError),
) -> None:
    """Run ``main``, which ends by itself after ``stop`` is set; cancel it if it still runs ``within_s`` later.

    Raises:
        Exception: The exception of ``main``. If ``stop`` is set, ``outages`` and ServiceUnavailable are logged instead.
    """
    running = asyncio.ensure_future(main)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([running], timeout=within_s)
        if not running.done():
            _log.warning("left_unfinished")
            return
        running.result()
    except Exception as error:
        if not stop.is_set() or not isinstance(error, (ServiceUnavailable, *outages)):
            raise
        _log.warning("left_unfinished", error=str(error) or type(error).__name__)
    finally:
        await end(running, stopping)
