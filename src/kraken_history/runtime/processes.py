"""Shared by the long-running processes: connecting to Redis, and stopping in time after a signal."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis as BlockingRedis
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, RedisError

from kraken_history.errors import HistoryError, ServiceUnavailable, UsageError
from kraken_history.runtime import telemetry
from kraken_history.runtime.redis_connections import pool_at
from kraken_history.runtime.redis_urls import EXAMPLE, read_redis_url
from kraken_history.runtime.tasks import end
from kraken_history.settings import Settings, load_settings
from kraken_history.urls import without_password

EXIT_FAILED = 1
EXIT_USAGE = 2

_FINISH_S = 12.0  # part of the 20 s in which `up` lets a service stop; compose allows 30

_log = telemetry.get_logger("process")


async def connect_redis(url: str) -> Redis:
    """Open a client, and check that Redis answers.

    Raises:
        UsageError: The URL is invalid, or its password is wrong or missing.
        ServiceUnavailable: No Redis answers at that address, or it is still loading.
    """
    with _translated_errors(url):
        redis: Redis = Redis.from_pool(pool_at(url, ConnectionPool))
        try:
            await redis.ping()
        except BaseException:
            await redis.aclose()
            raise
    return redis


def see_that_redis_answers(url: str) -> None:
    """As :func:`connect_redis`, for code without an event loop; closes its connection."""
    with (
        _translated_errors(url),
        BlockingRedis(
            **read_redis_url(url).client_arguments(), socket_timeout=5.0, socket_connect_timeout=5.0
        ) as redis,
    ):
        redis.ping()


@contextmanager
def _translated_errors(url: str) -> Iterator[None]:
    place = without_password(url)
    try:
        yield
    except ValueError as error:
        raise UsageError(f"expected REDIS_URL like {EXAMPLE} ({error})") from error
    except AuthenticationError as error:
        raise UsageError(f"the Redis at {place} refuses the password: correct it in REDIS_URL") from error
    except NoPermissionError as error:
        raise UsageError(f"the Redis at {place} refuses this user a command ({error}): extend its ACL") from error
    except BusyLoadingError as error:
        raise ServiceUnavailable(f"the Redis at {place} is still loading its data: try again") from error
    except (RedisError, OSError) as error:
        if "NOAUTH" in str(error) or "WRONGPASS" in str(error):
            raise UsageError(f"the Redis at {place} requires a password: add it to REDIS_URL") from error
        if "certificate" in str(error).lower():
            remedy = "correct ssl_ca_certs in REDIS_URL, or the host"
            raise UsageError(f"the certificate of the Redis at {place} is not trusted ({error}): {remedy}") from error
        raise ServiceUnavailable(f"no Redis answers at {place} ({error}): start it, or correct REDIS_URL") from error


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
        Exception: The exception of ``main``. If ``stop`` is set, ``outages`` are logged instead.
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
    except outages as error:
        if not stop.is_set():
            raise
        _log.warning("left_unfinished", error=str(error) or type(error).__name__)
    finally:
        await end(running, stopping)
