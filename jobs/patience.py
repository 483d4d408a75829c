"""Waiting for a Redis that is away, below arq: its worker ends at the first command that fails."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as NoAnswer

from kraken_history import telemetry

OUTAGES: list[type[Exception]] = [NoConnection, NoAnswer]
"""After these a command is sent again; a server that is loading its data is one of the first."""

_PAUSE_S = 0.25

T = TypeVar("T")

_log = telemetry.get_logger("worker")


class Patience(Retry):
    """Sends a command again until Redis answers, or until the worker is told to stop.

    What was sent may have been done although no answer came. All that the worker asks of Redis may be done twice: a
    slot of the rate limit is then lost, and a job is asked for under an id that is taken.

    Attributes:
        lasts_as_long_as: The task that is the worker. One for all, since each connection copies its retry.
    """

    __slots__ = ()
    lasts_as_long_as: ClassVar[asyncio.Task[Any] | None] = None
    _is_waiting: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(NoBackoff(), -1)

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], fail: Callable[[RedisError], Any]) -> T:
        """Do it, after each outage again.

        Raises:
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError: The worker is stopping.
            redis.exceptions.WatchError: The connection was lost in the middle of a transaction that watches a key.
        """
        while True:
            try:
                done = await do()
            except (NoConnection, NoAnswer, OSError) as error:  # the last while connecting
                await fail(error)  # type: ignore[arg-type] # redis-py lets it see an OSError too
                if self._is_over():
                    raise
                self._note(is_waiting=True, error=str(error))
                await asyncio.sleep(_PAUSE_S)
            else:
                self._note(is_waiting=False)
                return done

    @classmethod
    def _is_over(cls) -> bool:
        worker = cls.lasts_as_long_as
        return worker is not None and (worker.done() or worker.cancelling() > 0)

    @classmethod
    def _note(cls, *, is_waiting: bool, error: str = "") -> None:
        if is_waiting and not cls._is_waiting:
            _log.warning("waiting", server="redis", error=error)
        elif cls._is_waiting and not is_waiting:
            _log.info("going_on", server="redis")
        cls._is_waiting = is_waiting
