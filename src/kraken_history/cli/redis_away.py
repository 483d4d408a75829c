"""Waits for a Redis that is away while a command uses it, for a limited time, for example through a failover."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoAnswer

from kraken_history.runtime.redis_access import connect_redis
from kraken_history.settings import Settings

_AGAIN_AFTER_S = 0.25

T = TypeVar("T")


class LimitedPatience(Retry):
    """Sends commands again until Redis answers, for a time that all commands of a client share.

    A command may have been executed although no answer came, so it may be executed twice. All commands that use this
    allow that: a job has an id, and a trade is stored once.

    Args:
        within_s: Seconds to wait in total. The last attempt may take longer, until its own time limit.
        say: Called with one line when the first attempt has failed.
    """

    __slots__ = ("_has_said", "_left_s", "_say")

    def __init__(self, within_s: float, say: Callable[[str], object] = sys.stderr.write) -> None:
        super().__init__(NoBackoff(), -1)
        self._left_s = within_s
        self._say = say
        self._has_said = False

    def __deepcopy__(self, memo: object) -> Self:
        return self  # redis-py gives each connection a copy

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], fail: Callable[[RedisError], Any]) -> T:
        """Call ``do``, and again after each outage.

        Raises:
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError: The time has passed.
        """
        while True:
            began = time.monotonic()
            try:
                return await do()
            except (NoConnection, NoAnswer, OSError) as error:
                await fail(error)  # type: ignore[arg-type] # redis-py passes it an OSError too
                if self._left_s <= 0 or not _may_pass(error):
                    raise
                if not self._has_said:
                    self._say(f"Redis does not answer: waiting for at most {self._left_s:g} s\n")
                    self._has_said = True
            await asyncio.sleep(_AGAIN_AFTER_S)
            self._left_s -= time.monotonic() - began


def _may_pass(error: Exception) -> bool:
    """False for a refusal that is the same at each attempt."""
    return not (isinstance(error, (AuthenticationError, AuthorizationError)) or "certificate" in str(error).lower())


def patience_of(settings: Settings) -> LimitedPatience:
    """For one command."""
    return LimitedPatience(settings.redis_wait_s)


async def connect_patiently(url: str, settings: Settings) -> Redis:
    """As :func:`connect_redis`, but waits for ``REDIS_WAIT_S`` if Redis is away, now or during a command."""
    return await connect_redis(url, retry=patience_of(settings))
