"""Waiting for an effect, with a time limit."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], object | Awaitable[object]], *, timeout_s: float = 30.0) -> None:
    """Return when the condition holds; fail if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < deadline, f"still not true after {timeout_s:g} s: {inspect.getsource(condition)}"
        await asyncio.sleep(0.01)


def until_now(condition: Callable[[], object], *, timeout_s: float = 30.0) -> None:
    """As :func:`until`, for a test that is not asynchronous."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"still not true after {timeout_s:g} s: {inspect.getsource(condition)}"
        time.sleep(0.05)
