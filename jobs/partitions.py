"""The worker's partition jobs: create partitions ahead, unless the server does; drop old ones, if retention is set.

Retention is off until it is set.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from jobs.context import WorkerContext
from jobs.patient_jobs import within_its_turn
from kraken_history.runtime import telemetry
from kraken_history.settings import Settings
from kraken_history.storing.aggregates import RefreshIsRunning
from kraken_history.storing.partitions import make_partitions_ahead
from kraken_history.storing.retention import drop_old

_log = telemetry.get_logger("worker")


@within_its_turn
async def make_partitions(ctx: dict[str, Any]) -> int:
    """Create the partitions of today and the week ahead; return how many were missing."""
    context: WorkerContext = ctx["context"]
    return await make_partitions_ahead(context.unhurried_pool, now=context.rest.clock.now())


@within_its_turn
async def apply_retention(ctx: dict[str, Any]) -> int:
    """Drop data older than the retention settings; return how many partitions or chunks were dropped."""
    context: WorkerContext = ctx["context"]
    if not retention_cutoffs(context.settings, datetime.now(UTC)):
        return 0
    # The earlier one of two clocks, because a clock that is ahead would drop data that is wanted.
    now = min(await context.pool.fetchval("SELECT now()"), context.rest.clock.now())
    cutoffs = retention_cutoffs(context.settings, now)
    try:
        dropped = await drop_old(context.unhurried_pool, cutoffs, on_postponed=_log_postponed)
    except RefreshIsRunning:
        return 0
    if any(dropped.values()):
        _log.info("dropped", **dropped)
    return sum(dropped.values())


def _log_postponed(table: str, piece: str) -> None:
    _log.warning("drop_postponed", table=table, piece=piece)


def retention_cutoffs(settings: Settings, now: datetime) -> dict[str, datetime]:
    """Table or view → the time before which its data may be dropped."""
    days = {
        "trades": settings.retention_trades_days,
        "candles": settings.retention_candles_days,
        **dict.fromkeys(("candles_5m", "candles_15m", "candles_30m"), settings.retention_minutes_days),
        **dict.fromkeys(("candles_1h", "candles_4h"), settings.retention_hours_days),
    }
    return {table: now - timedelta(days=kept) for table, kept in days.items() if kept is not None}
