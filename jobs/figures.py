"""Metrics of missing ids, uncovered time and backfills, read from the database: the same in every worker."""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import get_args

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from jobs.context import WorkerContext
from kraken_history.completeness.covered_time import find_uncovered_time
from kraken_history.completeness.holes import count_missing
from kraken_history.database.failures import is_transient
from kraken_history.fetching.backfill_targets import BackfillState, list_backfills
from kraken_history.runtime import liveness, telemetry
from kraken_history.runtime.signs import Signs

EVERY_S = 15.0
"""Seconds between updates of the metrics."""

_log = telemetry.get_logger("worker")


async def keep_figures(context: WorkerContext, redis: Redis, *, every_s: float = EVERY_S) -> None:
    """Update the metrics every ``every_s`` seconds until cancelled. If an update fails, they keep their values.

    Outages of Redis or the database are not logged here, because others log them. Other failures are logged as errors.
    """
    reported: set[str] = set()
    while True:
        try:
            await _note_all(context, redis, reported)
        except Exception as error:
            if not isinstance(error, RedisError) and not is_transient(error):
                _log.error("figures_not_kept", error=f"{type(error).__name__}: {error}")
        await asyncio.sleep(every_s)


async def _note_all(context: WorkerContext, redis: Redis, reported: set[str]) -> None:
    signs = await liveness.signs_of_life(redis)
    _report_unreadable(signs, reported)
    wanted = dict.fromkeys(context.symbols, context.settings.history_days)
    await note_uncovered(context.pool, wanted, live_ids=signs.live_ids, now=context.rest.clock.now())
    await note_missing(context.pool, context.symbols)
    await note_backfills(context.pool)


def _report_unreadable(signs: Signs, reported: set[str]) -> None:
    """Log each unreadable sign of life once, not at each renewal."""
    unreadable = signs.unreadable
    for name in sorted(unreadable.keys() - reported):
        _log.warning("sign_of_life_unreadable", service=name, reason=unreadable[name])
    reported.clear()
    reported.update(unreadable)


async def note_missing(pool: asyncpg.Pool, symbols: Iterable[str]) -> None:
    """Set the number of missing ids of every symbol that is stored or wanted."""
    counts = dict.fromkeys(symbols, 0) | await count_missing(pool)
    for symbol, count in counts.items():
        telemetry.MISSING_IDS.labels(symbol=symbol).set(count)


async def note_backfills(pool: asyncpg.Pool) -> None:
    """Set the state, the time reached and the remaining time of each backfill."""
    for backfill in await list_backfills(pool):
        for state in get_args(BackfillState):
            telemetry.BACKFILL_STATE.labels(symbol=backfill.symbol, state=state).set(state == backfill.state)
        if backfill.reached is None:  # restarted: its earlier values no longer apply
            for metric in (telemetry.BACKFILL_REACHED, telemetry.BACKFILL_REMAINING):
                metric.remove(backfill.symbol)
        else:
            remaining = (backfill.target_end - backfill.reached).total_seconds()
            telemetry.BACKFILL_REACHED.labels(symbol=backfill.symbol).set(backfill.reached.timestamp())
            telemetry.BACKFILL_REMAINING.labels(symbol=backfill.symbol).set(
                0 if backfill.state == "done" else max(remaining, 0)
            )


async def note_uncovered(
    pool: asyncpg.Pool, wanted_days: Mapping[str, int], *, live_ids: Mapping[str, int], now: datetime
) -> None:
    """Set the uncovered part of the wanted time, per symbol."""
    uncovered = await find_uncovered_time(pool, wanted_days, live_ids=live_ids, now=now)
    for symbol, duration in uncovered.items():
        telemetry.UNCOVERED_SECONDS.labels(symbol=symbol).set(duration.total_seconds())
