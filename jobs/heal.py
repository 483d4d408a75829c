"""Healing: the job for one range of ids, and the sweep that finds holes without a job."""

from datetime import timedelta
from typing import Any

from arq import Retry

from jobs.context import WorkerContext
from jobs.patient_jobs import again_soon, within_its_turn
from kraken_history.completeness.holes import find_newest_due_holes, missing_of
from kraken_history.errors import KrakenBusy, KrakenError, MalformedMessage, ServiceUnavailable, UnknownSymbol
from kraken_history.fetching.healing import heal as heal_hole
from kraken_history.fetching.healing import wanted_span
from kraken_history.runtime import telemetry

_RETRY_AFTER_S = 15.0

_log = telemetry.get_logger("worker")


@again_soon
async def heal(ctx: dict[str, Any], symbol: str, first: int, stop: int, since: int | None) -> int:
    """Fetch the missing ids of ``[first, stop)``; return how many trades were stored.

    A long hole is healed in several jobs, each of which enqueues the next. If Kraken is too busy, the job is
    retried later. When its tries are used up, the sweep enqueues it again.
    """
    context: WorkerContext = ctx["context"]
    try:
        if not await missing_of(context.pool, symbol, (first, stop)):
            return 0
        if since is None:
            wanted_from = context.rest.clock.now() - timedelta(days=context.settings.history_days)
            span = await wanted_span(context.pool, symbol, (first, stop), wanted_from=wanted_from)
            if span is None:
                _log.debug("left_to_backfill", symbol=symbol, first=first)
                return 0
            since = span.since
        pair = await context.pairs.find(symbol)
        healed = await heal_hole(context.pool, context.store, context.rest, pair, (first, stop), since=since)
    except (KrakenBusy, ServiceUnavailable) as error:
        telemetry.FETCH_FAILURES.labels(symbol=symbol, work="heal", outcome="later").inc()
        _log.warning("heal_postponed", symbol=symbol, first=first, error=str(error))
        # A retry, not a new job: this job's id is taken while it runs, so a new job would be refused.
        raise Retry(defer=_RETRY_AFTER_S) from error
    except (KrakenError, MalformedMessage, UnknownSymbol) as error:
        telemetry.FETCH_FAILURES.labels(symbol=symbol, work="heal", outcome="failed").inc()
        _log.error("heal_failed", symbol=symbol, first=first, error=str(error))
        return 0
    if healed.next_since is not None:
        await context.jobs.heal(symbol, (first, stop), since=healed.next_since, delay_s=0)
    elif healed.stored:
        # The sweep requests the newest holes only.
        now = context.rest.clock.now()
        await context.jobs.heal_holes(await find_newest_due_holes(context.pool, now=now, symbols=[symbol]))
    return healed.stored


@within_its_turn
async def sweep(ctx: dict[str, Any]) -> int:
    """Enqueue the newest due holes of the ledger; return how many jobs were not in the queue yet.

    This replaces requests of the consumer that were lost, because Redis was wiped or a job died. Ids that Kraken
    passed over are requested again after a minute. If Kraken passes over them again, they are proven absent.
    """
    context: WorkerContext = ctx["context"]
    await context.jobs.bring_forward()
    return await context.jobs.heal_holes(await find_newest_due_holes(context.pool, now=context.rest.clock.now()))
