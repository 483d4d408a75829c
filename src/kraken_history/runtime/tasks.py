"""Ending asyncio tasks."""

import asyncio
from typing import Any

AGAIN_AFTER_S = 2.0


async def end(*tasks: asyncio.Task[Any], again_after_s: float = AGAIN_AFTER_S) -> None:
    """Cancel tasks and wait until they end; their exceptions are retrieved, so asyncio does not warn about them.

    One cancellation is not always enough: in Python 3.11 ``asyncio.wait_for``, which libraries use, loses a
    cancellation that arrives together with its result. The task then continues as if it had not been cancelled.

    Args:
        again_after_s: Seconds after which a task that still runs is cancelled again. Until then it may clean up.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=again_after_s)
    for task in tasks:
        if not task.cancelled():
            task.exception()
