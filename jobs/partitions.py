"""The worker's partition jobs: create partitions ahead, unless the server does; drop old ones, if retention is set.

Retention is off until it is set.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from jobs.context import WorkerContext
from jobs.patient_jobs import within_its_turn
from kraken_history.errors import HistoryError, ServiceUnavailable
from kraken_history.months import Month
from kraken_history.reading.arrow_stream import require_packages
from kraken_history.runtime import telemetry
from kraken_history.settings import Settings
from kraken_history.storing.aggregates import RefreshIsRunning
from kraken_history.storing.partitions import make_partitions_ahead
from kraken_history.storing.retention import Held, drop_old, find_months_to_drop

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
        held = await _held_by_the_archive(context, cutoffs)
        dropped = await drop_old(
            context.unhurried_pool, cutoffs, on_postponed=_log_postponed, held=held, on_kept=_log_kept
        )
    except RefreshIsRunning:
        return 0
    except ServiceUnavailable:
        raise
    except HistoryError as error:  # of the archive
        _log.error("nothing_dropped", error=str(error))
        return 0
    if any(dropped.values()):
        _log.info("dropped", **dropped)
    return sum(dropped.values())


async def _held_by_the_archive(context: WorkerContext, cutoffs: dict[str, datetime]) -> Held | None:
    """What the archive provably holds of the data that may be dropped; None if no archive is set."""
    url = context.settings.archive_url
    if url is None:
        return None
    await require_packages("arrow", "pyarrow")
    from kraken_history.archive.checking import find_held
    from kraken_history.archive.place import place_of

    months = await find_months_to_drop(context.unhurried_pool, cutoffs)
    place = await asyncio.to_thread(place_of, url.get_secret_value())
    return await find_held(context.unhurried_pool, place, months)


def _log_kept(table: str, piece: str, symbol: str, month: Month) -> None:
    _log.warning("drop_waits_for_archive", table=table, piece=piece, symbol=symbol, month=str(month))


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
