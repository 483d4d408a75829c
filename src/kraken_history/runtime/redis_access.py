"""Opens the Redis of the streams and that of the jobs, and says in one line why one cannot be used."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any, cast

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoAnswer

from kraken_history.errors import ServiceUnavailable, UsageError
from kraken_history.runtime.redis_clusters import StreamsCluster
from kraken_history.runtime.redis_connections import REDIS_TIMEOUTS, pool_at
from kraken_history.runtime.redis_urls import EXAMPLE, RedisUrl, read_redis_url
from kraken_history.urls import UrlOfSetting, is_cluster, without_password

REDIS_URL = "REDIS_URL"


async def connect_redis(url: str, *, retry: Retry | None = None) -> Redis:
    """Open a client of one server, or of the master that Sentinels know, and check that it answers.

    Args:
        retry: Decides whether a command is sent again after a lost connection; by default none is.

    Raises:
        UsageError: The URL is invalid, its password is wrong or missing, or the server is part of a cluster.
        ServiceUnavailable: No Redis answers at that address, or it is still loading.
    """
    with _translated_errors(url):
        again = {} if retry is None else {"retry": retry, "retry_on_error": [NoConnection, NoAnswer]}
        redis: Redis = Redis.from_pool(pool_at(url, ConnectionPool, **again))
        try:
            await redis.ping()
            _check_mode(await _mode(redis), "standalone", url)
        except BaseException:
            await redis.aclose()
            raise
    return redis


async def connect_streams(url: str, *, retry: Retry | None = None) -> Redis:
    """As :func:`connect_redis`, for the Redis of the streams, which may be a cluster, whose client has its own retries.

    The client of a cluster has the commands of the streams, and pipelines that are not transactions.
    """
    if not is_cluster(url):
        return await connect_redis(url, retry=retry)
    with _translated_errors(url):
        address = read_redis_url(url)
        await _check_a_node(address, url)
        cluster = StreamsCluster(address)
        try:
            await cluster.initialize()
        except BaseException:
            await cluster.aclose()
            raise
    return cast("Redis", cluster)


@asynccontextmanager
async def connect_both(
    streams_url: str, jobs_url: str, *, retry: Retry | None = None
) -> AsyncIterator[tuple[Redis, Redis]]:
    """The Redis of the streams, and that of the jobs, the rate limit and the signs of life; often the same."""
    async with AsyncExitStack() as stack:
        streams: Redis = await stack.enter_async_context(await connect_streams(streams_url, retry=retry))
        if jobs_url == streams_url:
            yield streams, streams
        else:
            yield streams, await stack.enter_async_context(await connect_redis(jobs_url, retry=retry))


def see_that_redis_answers(url: str) -> None:
    """As :func:`connect_redis`, for code outside of an event loop; closes its connection."""

    async def look() -> None:
        await (await connect_redis(url)).aclose()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, look()).result()


async def _mode(redis: Redis) -> str:
    """What the server says that it is: ``standalone``, ``cluster``, ``sentinel``; empty if it does not say."""
    with suppress(ResponseError):  # it is older than Redis 6, or this user may not ask
        answer: list[Any] = await redis.execute_command("HELLO")  # type: ignore[no-untyped-call]
        return str(dict(zip(answer[::2], answer[1::2], strict=True)).get(b"mode", b"").decode())
    return ""


def _check_mode(mode: str, expected: str, url: str) -> None:
    place, setting = without_password(url), _setting_of(url)
    if mode in (expected, ""):
        return
    if mode == "sentinel":
        raise UsageError(f"the server at {place} is a Sentinel: write redis+sentinel://…/master-name in {setting}")
    if expected == "cluster":
        raise UsageError(f"the Redis at {place} is not part of a cluster: write redis:// in {setting}")
    remedy = f"write redis+cluster:// in {setting}, and name another Redis in JOBS_REDIS_URL"
    if setting != REDIS_URL:
        remedy = f"name another Redis in {setting}, because the queue of jobs cannot be in a cluster"
    raise UsageError(f"the Redis at {place} is part of a cluster: {remedy}")


async def _check_a_node(address: RedisUrl, url: str) -> None:
    """Check that the first of the nodes that answers is one of a cluster."""
    for host, port in address.hosts:
        pool = ConnectionPool(
            connection_class=address.connection_class, **REDIS_TIMEOUTS, **address.node_arguments(host, port)
        )
        try:
            _check_mode(await _mode(Redis(connection_pool=pool)), "cluster", url)
            return
        except AuthenticationError:
            raise
        except (RedisError, OSError):
            if (host, port) == address.hosts[-1]:
                raise
        finally:
            await pool.disconnect()


def _setting_of(url: str) -> str:
    return url.setting if isinstance(url, UrlOfSetting) else REDIS_URL


@contextmanager
def _translated_errors(url: str) -> Iterator[None]:
    place, setting = without_password(url), _setting_of(url)
    try:
        yield
    except ValueError as error:
        raise UsageError(f"expected {setting} like {EXAMPLE} ({error})") from error
    except AuthenticationError as error:
        raise UsageError(f"the Redis at {place} refuses the password: correct it in {setting}") from error
    except NoPermissionError as error:
        raise UsageError(f"the Redis at {place} refuses this user a command ({error}): extend its ACL") from error
    except BusyLoadingError as error:
        raise ServiceUnavailable(f"the Redis at {place} is still loading its data: try again") from error
    except (RedisError, OSError) as error:
        if "NOAUTH" in str(error) or "WRONGPASS" in str(error):
            raise UsageError(f"the Redis at {place} requires a password: add it to {setting}") from error
        if "certificate" in str(error).lower():
            remedy = f"correct ssl_ca_certs in {setting}, or the host"
            raise UsageError(f"the certificate of the Redis at {place} is not trusted ({error}): {remedy}") from error
        raise ServiceUnavailable(f"no Redis answers at {place} ({error}): start it, or correct {setting}") from error
