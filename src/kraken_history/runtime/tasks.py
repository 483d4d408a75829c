"""Ending asyncio tasks."""

import asyncio
from typing import Any

AGAIN_AFTER_S = 2.0


async def end(*tasks: asyncio.Task[Any], again_after_s: float = AGAIN_AFTER_S) -> None:
    """Cancel tasks and wait until they are over; what they raise stays with them, and is no news to asyncio.

    Once is not always enough: ``asyncio.wait_for`` of Python 3.11, through which libraries wait, returns what has just
    come and forgets the cancellation that came with it. The task then goes on as if nobody had asked.

    Args:
        again_after_s: When a task that is not over is cancelled again, and how long one may clean up undisturbed.
    """
    going_on = {task for task in tasks if not task.done()}
    while going_on:
        for task in going_on:
            task.cancel()
        _, going_on = await asyncio.wait(going_on, timeout=again_after_s)
    for task in tasks:
        if not task.cancelled():
            task.exception()
