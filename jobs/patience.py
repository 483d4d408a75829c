"""Waits through Redis outages, below arq, whose worker would end at the first command that fails."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar

import arq.connections
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as NoAnswer

from kraken_history.fetching.queue import QueueRedis
from kraken_history.runtime import telemetry
from kraken_history.runtime.redis_connections import pool_at, refuses_for_now

OUTAGES: list[type[Exception]] = [NoConnection, NoAnswer, OutOfMemoryError, ReadOnlyError]
"""Errors after which a command is sent again. ``NoConnection`` includes a server that is loading its data."""

_AWAY = (NoConnection, NoAnswer, OSError)  # OSError: while connecting, or out of time
_PAUSE_S = 0.25
_LAST_WORD_S = 2.0  # limit for a command while the worker is stopping

# True while a command runs: a connection made for the command does not yet count as an answer.
_is_within = ContextVar("_is_within", default=False)

T = TypeVar("T")

_log = telemetry.get_logger("worker")


class Patience(Retry):
    """Sends a command again until Redis answers, or until the worker is told to stop.

    A command may have been executed although no answer came, so it may be executed twice. The worker's commands allow
    that: a slot of the rate limit is lost, or a job is enqueued under an id that is taken.

    Attributes:
        lasts_as_long_as: The worker's task: the first that sent a command. Shared by all instances, because each
            connection copies its retry.
    """

    __slots__ = ()
    lasts_as_long_as: ClassVar[asyncio.Task[Any] | None] = None
    _is_waiting: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(NoBackoff(), -1)

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], fail: Callable[[RedisError], Any]) -> T:
        """Call ``do``, and again after each outage.

        Raises:
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, redis.exceptions.OutOfMemoryError, OSError:
                The worker is stopping.
            redis.exceptions.WatchError: The connection was lost in the middle of a transaction that watches a key.
        """
        is_inner = _is_within.get()
        within = _is_within.set(True)
        try:
            done = await self._until_done(do, fail)
        finally:
            _is_within.reset(within)
        if not is_inner:
            self._note(is_waiting=False)
        return done

    async def _until_done(self, do: Callable[[], Awaitable[T]], fail: Callable[[RedisError], Any]) -> T:
        while True:
            try:
                async with asyncio.timeout(_LAST_WORD_S if self.is_over() else None):
                    return await do()
            except (*_AWAY, ResponseError) as error:
                if isinstance(error, ResponseError):
                    if not refuses_for_now(error):
                        raise
                    error = OutOfMemoryError(*error.args)  # one of OUTAGES, whatever its own class is
                await fail(error)  # type: ignore[arg-type] # redis-py passes it an OSError too
                if self.is_over():
                    raise
                self._note(is_waiting=True, error=str(error))
                await asyncio.sleep(_PAUSE_S)

    @classmethod
    def is_over(cls) -> bool:
        """True if the worker is stopping."""
        if cls.lasts_as_long_as is None:
            cls.lasts_as_long_as = asyncio.current_task()
        worker = cls.lasts_as_long_as
        return worker is not None and (worker.done() or worker.cancelling() > 0)

    @classmethod
    def _note(cls, *, is_waiting: bool, error: str = "") -> None:
        if is_waiting and not cls._is_waiting:
            _log.warning("waiting", server="redis", error=error)
        elif cls._is_waiting and not is_waiting:
            _log.info("going_on", server="redis")
        cls._is_waiting = is_waiting


class PatientPool(ConnectionPool):
    """Retries new connections too: redis-py does not retry if a server accepts a connection and sends nothing."""

    async def get_connection(self, command_name: object = None, *keys: object, **options: object) -> AbstractConnection:
        """Return a connected connection, however long that takes."""
        return await Patience().call_with_retry(super().get_connection, _bear)


class PatientRedis(QueueRedis):
    """The client of arq's worker and its jobs; arq's own connections would wait for an answer without a limit."""

    @classmethod
    def at(cls, url: str) -> "PatientRedis":
        """Create the client; it opens no connection yet."""
        pool = pool_at(url, PatientPool, retry=Patience(), retry_on_error=OUTAGES)
        redis = cls(pool)
        redis.auto_close_connection_pool = True
        return redis

    async def delete(self, *names: Any) -> Any:
        """Delete keys. If Redis is away while the worker stops, return 0: arq's last command must not fail it."""
        try:
            return await super().delete(*names)
        except (*_AWAY, ResponseError):
            if not Patience.is_over():
                raise
            return 0


async def log_redis_info(redis: Redis, log: Callable[[str], Any]) -> None:
    """As arq's, but a user who may not use INFO is no reason to end."""
    with suppress(NoPermissionError):
        await arq.connections.log_redis_info(redis, log)


async def _bear(_: RedisError) -> None:
    """Do nothing: the pool has cleaned up after itself."""
