"""Waits for servers that are away when a process starts."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from kraken_history.errors import ServiceUnavailable
from kraken_history.runtime.logs import Logger

AGAIN_AFTER_S = 1.0
"""Seconds between two attempts."""

T = TypeVar("T")


async def when_available(
    server: str,
    use: Callable[[], Awaitable[T]],
    stop: asyncio.Event,
    log: Logger,
    *,
    again_after_s: float = AGAIN_AFTER_S,
) -> T:
    """Call ``use`` until its server answers. Logs once that it waits, and once that it goes on.

    Raises:
        ServiceUnavailable: ``stop`` was set meanwhile.
        UsageError: Waiting does not help, for example because of a wrong password.
    """
    is_waiting = False
    while True:
        try:
            answer = await use()
            break
        except ServiceUnavailable as error:
            if stop.is_set():
                raise
            if not is_waiting:
                log.warning("waiting", server=server, error=str(error))
            is_waiting = True
        with suppress(TimeoutError):
            async with asyncio.timeout(again_after_s):
                await stop.wait()
    if is_waiting:
        log.info("going_on", server=server)
    return answer
