"""The worker's refresh of the longer intervals."""

from typing import Any

from jobs.context import WorkerContext
from jobs.patient_jobs import within_its_turn
from kraken_history.runtime import telemetry
from kraken_history.storing.aggregates import RefreshIsRunning, refresh
from kraken_history.storing.contested import settle_some

AFTER_GRACE_S = 12
"""Second of the minute at which the refresh starts: buckets that ended with the minute before are closed by then."""

_log = telemetry.get_logger("worker")


@within_its_turn
async def refresh_aggregates(ctx: dict[str, Any]) -> int:
    """Refresh the stale windows; return how many. If another refresh runs, return 0: it does the same work.

    Contested minutes of the next few symbols are settled first, in case that a proof was overlooked.
    """
    context: WorkerContext = ctx["context"]
    try:
        context.settled_to = await settle_some(context.unhurried_pool, context.settled_to)
        done = await refresh(context.unhurried_pool, now=context.rest.clock.now())
    except RefreshIsRunning:
        return 0
    if done:
        _log.info("refreshed", windows=len(done), kept=sum(each.kept for each in done))
    return len(done)
