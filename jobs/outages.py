"""Jobs that meet an outage of the database: tried again soon, in one line of the log instead of a traceback."""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from arq import Retry
from arq.typing import WorkerCoroutine

from kraken_history.database.connections import is_transient
from kraken_history.runtime import telemetry

AGAIN_AFTER_S = 3.0
"""Seconds before a job that met an outage of the database is tried again."""

Job = Callable[..., Coroutine[Any, Any, int]]

_log = telemetry.get_logger("worker")


def tried_again(job: Job) -> WorkerCoroutine:
    """A job that is tried again after :data:`AGAIN_AFTER_S` if the database is away.

    Otherwise arq would end it as failed. The sweep would find its work again, but only half a minute later, or after
    five minutes for a gap.
    """

    @wraps(job)
    async def patient(ctx: dict[str, Any], *args: Any, **options: Any) -> int:
        try:
            return await job(ctx, *args, **options)
        except Retry:
            raise
        except Exception as error:
            if not is_transient(error):
                raise
            _log.warning("job_postponed", job=ctx.get("job_id", ""), error=_in_one_line(error))
            raise Retry(defer=AGAIN_AFTER_S) from error

    return patient


def left_out(job: Job) -> WorkerCoroutine:
    """A periodic job that does nothing while the database is away: its next turn does the same work."""

    @wraps(job)
    async def patient(ctx: dict[str, Any], *args: Any, **options: Any) -> int:
        try:
            return await job(ctx, *args, **options)
        except Exception as error:
            if not is_transient(error):
                raise
            _log.warning("job_left_out", job=ctx.get("job_id", ""), error=_in_one_line(error))
            return 0

    return patient


def _in_one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())
