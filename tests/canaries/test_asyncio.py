"""How asyncio treats cancellations, on which the ends of services rest."""

import asyncio
import inspect
import sys
from typing import Any


async def test_a_task_counts_the_cancellations_that_it_was_asked_for() -> None:
    """``jobs.patience`` and ``jobs.worker`` read ``Task.cancelling()`` to see that the worker is stopping."""
    task = asyncio.create_task(asyncio.Event().wait())
    assert task.cancelling() == 0

    task.cancel()

    assert task.cancelling() == 1
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_task_shows_its_coroutine_and_that_its_locals() -> None:
    """``jobs.ending`` reads the worker out of the coroutine of arq's main task."""

    async def main(self: object) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(main("worker"))
    await asyncio.sleep(0)
    coroutine: Any = task.get_coro()

    assert inspect.getcoroutinelocals(coroutine)["self"] == "worker"
    task.cancel()
    await asyncio.wait([task])


async def test_only_wait_for_of_python_3_11_forgets_a_cancellation() -> None:
    """``runtime.tasks``, ``runtime.redis_connections`` and ``jobs.ending`` work around this.

    When Python 3.11 is no longer supported, the workarounds named in docs/decisions/0011 may go, and this test.
    """
    arrived: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def wait() -> str:
        return await asyncio.wait_for(arrived, 60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    arrived.set_result("answer")
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled() == (sys.version_info >= (3, 12))
