"""Jobs that meet an outage of the database."""

from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from arq import Retry

from jobs import patient_jobs
from jobs.patient_jobs import again_soon, retry_after_s, within_its_turn
from kraken_history.errors import ServiceUnavailable


class Pool:
    expired = 0

    async def expire_connections(self) -> None:
        self.expired += 1


def failing(*errors: Exception) -> tuple[Any, list[int]]:
    """A job that raises these errors, one a call, and then returns 7; and a list with an item per call."""
    calls: list[int] = []

    async def job(ctx: dict[str, Any]) -> int:
        calls.append(1)
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]
        return 7

    return job, calls


async def test_a_job_that_meets_a_full_disk_is_run_again_within_seconds() -> None:
    # It failed with a traceback: the next search for gaps came five minutes later.
    job, _ = failing(asyncpg.DiskFullError("No space left on device"))

    with pytest.raises(Retry) as retry:
        await again_soon(job)({"job_try": 3})

    assert retry.value.defer_score == 4_000
    assert [retry_after_s(n) for n in (1, 2, 3, 4, 100)] == [1, 2, 4, 4, 4]


@pytest.mark.parametrize("error", [asyncpg.UndefinedTableError("trades"), ServiceUnavailable("Kraken"), KeyError("x")])
async def test_a_job_that_fails_for_another_reason_fails(error: Exception) -> None:
    job, _ = failing(error)

    with pytest.raises(type(error)):
        await again_soon(job)({"job_try": 1})


async def test_a_job_on_a_standby_leaves_its_connections() -> None:
    pool = Pool()
    job, _ = failing(asyncpg.ReadOnlySQLTransactionError("read-only"))

    with pytest.raises(Retry):
        await again_soon(job)({"context": SimpleNamespace(pool=pool, unhurried_pool=Pool())})

    assert pool.expired == 1


async def test_a_job_by_the_clock_tries_again_within_its_turn_and_then_skips_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patient_jobs, "FIRST_RETRY_S", 0.0)
    full = asyncpg.TooManyConnectionsError("full")
    job, calls = failing(full, full)
    assert (await within_its_turn(job)({}), len(calls)) == (7, 3)

    job, calls = failing(*[full] * 100)
    assert (await within_its_turn(job)({}), len(calls)) == (0, 6)
