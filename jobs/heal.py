"""Healing: the job for one run of holes, and the sweep that finds holes nobody has asked for."""

from datetime import timedelta
from typing import Any

from arq import Retry

from jobs.context import WorkerContext
from kraken_history.clock import utc_now
from kraken_history.completeness.hole_times import span_of
from kraken_history.completeness.holes import find_due_holes, find_holes, missing_of
from kraken_history.errors import KrakenBusy, KrakenError, MalformedMessage, ServiceUnavailable, UnknownSymbol
from kraken_history.fetching.healing import heal as heal_hole
from kraken_history.runtime import telemetry

_RETRY_AFTER_S = 15.0

_log = telemetry.get_logger("worker")


async def heal(ctx: dict[str, Any], symbol: str, first: int, stop: int, since: int | None) -> int:
    """Fetch the missing ids of ``[first, stop)``; return how many trades that brought.

    A long hole is healed in several jobs, each asking for the next. While Kraken is too busy the job is
    tried again later; when its tries are used up, the sweep asks anew.
    """
    context: WorkerContext = ctx["context"]
    try:
        if not await missing_of(context.pool, symbol, (first, stop)):
            return 0
        if since is None:
            wanted_from = utc_now() - timedelta(days=context.settings.history_days)
            span = await span_of(context.pool, symbol, (first, stop), wanted_from=wanted_from)
            if span is None:
                _log.debug("left_to_backfill", symbol=symbol, first=first)
                return 0
            since = span.since
        pair = await context.pairs.find(symbol)
        healed = await heal_hole(context.pool, context.store, context.rest, pair, (first, stop), since=since)
    except (KrakenBusy, ServiceUnavailable) as error:
        telemetry.FETCH_FAILURES.labels(symbol=symbol, work="heal", outcome="later").inc()
        _log.warning("heal_postponed", symbol=symbol, first=first, error=str(error))
        # Not a new job: this one's id is taken for as long as it runs, so a new one would be refused.
        raise Retry(defer=_RETRY_AFTER_S) from error
    except (KrakenError, MalformedMessage, UnknownSymbol) as error:
        telemetry.FETCH_FAILURES.labels(symbol=symbol, work="heal", outcome="failed").inc()
        _log.error("heal_failed", symbol=symbol, first=first, error=str(error))
        return 0
    if healed.next_since is not None:
        await context.jobs.heal(symbol, (first, stop), since=healed.next_since, delay_s=0)
    return healed.stored


async def sweep(ctx: dict[str, Any]) -> int:
    """Ask for every hole in the ledger; return how many jobs were not in the queue yet.

    Finds what the consumer's own requests missed: a Redis that was wiped, a job that died. Ids that Kraken was
    seen to pass over are asked for again when a minute has gone by, which proves them absent.
    """
    context: WorkerContext = ctx["context"]
    holes = await find_holes(context.pool)
    for symbol in {*context.symbols, *holes}:
        telemetry.HOLES.labels(symbol=symbol).set(len(holes.get(symbol, ())))
    return await context.jobs.heal_holes(await find_due_holes(context.pool, now=utc_now()))
