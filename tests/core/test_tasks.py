"""Ending tasks."""

import asyncio
import gc
from contextlib import suppress

from kraken_history.runtime.tasks import end


async def test_tasks_are_over_afterwards_whatever_they_raised_or_were_doing() -> None:
    async def fail() -> None:
        raise ValueError

    async def fail_while_cleaning_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError

    tasks = [asyncio.create_task(each) for each in (fail(), fail_while_cleaning_up(), asyncio.sleep(60))]
    await asyncio.sleep(0)

    await end(*tasks)

    assert [task.done() for task in tasks] == [True, True, True]
    assert [task.cancelled() or type(task.exception()) for task in tasks] == [ValueError, ValueError, True]


async def test_a_task_that_loses_its_cancellation_is_cancelled_again() -> None:
    async def lose(times: int) -> None:
        for _ in range(times):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
        await asyncio.sleep(60)

    task = asyncio.create_task(lose(2))
    await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await end(task, again_after_s=0.01)

    assert task.cancelled()


async def test_a_task_may_clean_up_undisturbed() -> None:
    cleaned_up = asyncio.Event()

    async def clean_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            cleaned_up.set()

    task = asyncio.create_task(clean_up())
    await asyncio.sleep(0)

    await end(task)

    assert cleaned_up.is_set()


async def test_what_they_raised_is_not_complained_about_later() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def fail_while_cleaning_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError

    task = asyncio.create_task(fail_while_cleaning_up())
    await asyncio.sleep(0)
    await end(task)
    del task
    gc.collect()

    assert not complaints


async def test_nothing_to_end_is_done_at_once() -> None:
    await end()
