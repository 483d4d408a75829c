"""The worker's making of the maps from which coverage is computed."""

from typing import Any

from jobs.context import WorkerContext
from jobs.patient_jobs import within_its_turn
from kraken_history.runtime import telemetry
from kraken_history.storing.map_building import build_missing_maps

MOST_DAYS_AT_ONCE = 20_000
"""Maximum number of maps that one run makes. More are left to the runs after it."""

_log = telemetry.get_logger("worker")


@within_its_turn
async def build_maps(ctx: dict[str, Any]) -> int:
    """Make the missing maps of the days that ended; return how many."""
    context: WorkerContext = ctx["context"]
    # The earlier one of two clocks, because a clock that is ahead would make maps of a day that has not ended.
    now = min(await context.pool.fetchval("SELECT now()"), context.rest.clock.now())
    made = await build_missing_maps(context.unhurried_pool, now=now, most_days=MOST_DAYS_AT_ONCE)
    if made:
        _log.info("built_maps", days=made)
    return made
