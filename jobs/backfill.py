"""Backfills: the job that fetches some pages of one, and the sweep that restarts those without a worker."""

from typing import Any

from arq import Retry

from jobs.context import WorkerContext
from jobs.longer_history import request_ohlc
from jobs.patient_jobs import again_soon, within_its_turn
from kraken_history.errors import KrakenBusy, ServiceUnavailable, UnknownSymbol
from kraken_history.fetching.backfill import BackfillRunner
from kraken_history.fetching.backfill_targets import fail_backfill, note_waiting, take_stalled
from kraken_history.runtime import telemetry

MOST_AT_ONCE = 6
"""Maximum number of backfills that one worker runs at once, so that slots for healing remain. More take turns."""

_TURN_S = 2.0
_RETRY_AFTER_S = 15.0

_log = telemetry.get_logger("worker")


@again_soon
async def backfill(ctx: dict[str, Any], symbol: str) -> int:
    """Fetch pages for a while, then enqueue the next job; return how many trades are new since the backfill began.

    If another worker runs the backfill, or if it is paused or finished, do nothing and return 0.
    """
    context: WorkerContext = ctx["context"]
    if symbol in context.backfills:
        return 0
    if len(context.backfills) >= MOST_AT_ONCE:
        await note_waiting(context.pool, symbol)
        raise Retry(defer=_TURN_S)
    context.backfills.add(symbol)
    try:
        return await _backfill(context, symbol)
    finally:
        context.backfills.discard(symbol)


async def _backfill(context: WorkerContext, symbol: str) -> int:
    settings = context.settings
    await request_ohlc(context, [symbol])
    runner = BackfillRunner(
        context.pool, context.store, context.rest, lease_s=settings.backfill_lease_s, run_s=settings.backfill_run_s
    )
    try:
        state = await runner.run(await context.pairs.find(symbol))
    except (KrakenBusy, ServiceUnavailable) as error:
        _log.warning("backfill_postponed", symbol=symbol, error=str(error))
        raise Retry(defer=_RETRY_AFTER_S) from error
    except UnknownSymbol as error:
        telemetry.FETCH_FAILURES.labels(symbol=symbol, work="backfill", outcome="failed").inc()
        await fail_backfill(context.pool, symbol, str(error))
        return 0
    if state is None:
        return 0
    if state.state == "running":
        await context.jobs.backfill(symbol, state.run, delay_s=_RETRY_AFTER_S if state.failures else 0.0)
    return state.trades


@within_its_turn
async def sweep_backfills(ctx: dict[str, Any]) -> int:
    """Restart the backfills whose worker died or whose job was lost; return how many."""
    context: WorkerContext = ctx["context"]
    stalled = await take_stalled(context.pool, lease_s=context.settings.backfill_lease_s)
    for standing in stalled:
        _log.info("backfill_restarted", symbol=standing.symbol, reached=str(standing.reached))
        await context.jobs.backfill(standing.symbol, standing.run)
    return len(stalled)
