"""Waits through Redis outages, below arq, whose worker would end at the first command that fails."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar

import arq.connections
from arq.constants import in_progress_key_prefix
from arq.jobs import Job
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import NoPermissionError, RedisError, ResponseError, WatchError
from redis.exceptions import TimeoutError as NoAnswer

from kraken_history.fetching.queue_redis import PrefixingPipeline, QueueRedis, is_cut
from kraken_history.runtime import telemetry
from kraken_history.runtime.redis_connections import RedisIsAway, pool_at, refuses_for_now

OUTAGES: list[type[Exception]] = [NoConnection, NoAnswer]
"""Errors after which a command is sent again. ``NoConnection`` includes a server that refuses commands for now."""

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
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError: The worker is stopping.
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
                    error = RedisIsAway(*error.args)  # inside the answer to a transaction, which was read to its end
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


class _PatientPipeline(PrefixingPipeline):
    """Goes on after a connection that was lost while keys are watched; redis-py would raise, and arq's worker end.

    It watches the keys again on another connection, so that the reads before the transaction have answers. Some of
    these may be outdated, so the transaction is then not executed, as if another worker had changed the keys.
    """

    watched: tuple[Any, ...] = ()
    is_outdated = False

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """As redis-py's."""
        if args[0] == "WATCH":
            self.watched = args
        while True:
            try:
                return await super().immediate_execute_command(*args, **options)  # type: ignore[no-untyped-call]
            except WatchError as error:
                if not is_cut(error) or Patience.is_over():
                    raise
                self.is_outdated = True
                await super().immediate_execute_command(*self.watched)  # type: ignore[no-untyped-call]

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """As redis-py's.

        Raises:
            WatchError: A watched key has changed, or the connection was lost since it was first watched.
        """
        if self.is_outdated:
            await self.reset()
            self.note_cut(_CUT)
            raise WatchError(_CUT)
        marks = [args[1] for args, _ in self.command_stack if args[0] == "PSETEX" and _MARK in args[1]]
        try:
            return await super().execute(raise_on_error)
        except WatchError as error:
            if marks and is_cut(error):
                # Redis may have executed the transaction: then the mark would keep the job from every worker for hours.
                await Redis(connection_pool=self.connection_pool).delete(*marks)
            raise


_CUT = "the connection was lost while keys were watched"
_MARK = f":{in_progress_key_prefix}"


class PatientRedis(QueueRedis):
    """The client of arq's worker and its jobs; arq's own connections would wait for an answer without a limit."""

    kind_of_pipeline = _PatientPipeline

    async def enqueue_job(self, *args: Any, **options: Any) -> Job | None:
        """As arq's; if the connection is lost in between, adds the job again."""
        add = super().enqueue_job
        return await Patience().call_with_retry(lambda: add(*args, **options), _bear)

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
