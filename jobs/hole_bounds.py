"""Looks up times of missing ids that the ledger does not know, after an upgrade or a repair."""

from typing import Any

from jobs.context import WorkerContext
from jobs.patient_jobs import within_its_turn
from kraken_history.runtime import telemetry
from kraken_history.storing.hole_bounds import fill_hole_times

TIMEOUT_S = 3600
"""Maximum seconds of one search. What it found is kept, and the next one searches for the rest."""

_log = telemetry.get_logger("worker")


@within_its_turn
async def look_up_hole_times(ctx: dict[str, Any]) -> int:
    """Look up the times that are not known; return of how many ranges of ids. Nearly always there are none."""
    context: WorkerContext = ctx["context"]
    found = await fill_hole_times(context.unhurried_pool)
    if found:
        _log.info("hole_times_found", ranges=found)
    return found
