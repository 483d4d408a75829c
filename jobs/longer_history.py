"""History at once: the job that fetches the exchange's candles of each interval, and the request for new symbols."""

from collections.abc import Sequence
from typing import Any

from arq import Retry

from jobs.context import WorkerContext
from jobs.patient_jobs import again_soon, within_its_turn
from kraken_history.completeness.longer_cover import find_unasked
from kraken_history.errors import KrakenBusy, KrakenError, MalformedMessage, ServiceUnavailable, UsageError
from kraken_history.fetching.longer_history import ASKED_EVERY, fetch_longer_history
from kraken_history.runtime import telemetry

_RETRY_AFTER_S = 15.0

_log = telemetry.get_logger("worker")


@again_soon
async def fetch_ohlc(ctx: dict[str, Any], symbol: str) -> int:
    """Fetch the exchange's latest candles of each interval; return how many were new."""
    context: WorkerContext = ctx["context"]
    try:
        pair = await context.pairs.find(symbol)
        if not await find_unasked(context.pool, [pair.symbol], context.rest.clock.now() - ASKED_EVERY):
            return 0  # several workers requested it, or it was requested again before it had run
        return sum((await fetch_longer_history(context.pool, context.store, context.rest, pair)).values())
    except (KrakenBusy, ServiceUnavailable) as error:
        telemetry.FETCH_FAILURES.labels(symbol=symbol, work="candles", outcome="later").inc()
        _log.warning("ohlc_postponed", symbol=symbol, error=str(error))
        raise Retry(defer=_RETRY_AFTER_S) from error
    except (KrakenError, MalformedMessage, UsageError) as error:
        telemetry.FETCH_FAILURES.labels(symbol=symbol, work="candles", outcome="failed").inc()
        _log.error("ohlc_failed", symbol=symbol, error=str(error))
        return 0


@within_its_turn
async def fetch_ohlc_of_all(ctx: dict[str, Any]) -> int:
    """Enqueue the job for every symbol of the settings that is new, or was not asked about for a day."""
    context: WorkerContext = ctx["context"]
    return await request_ohlc(context, context.symbols)


async def request_ohlc(context: WorkerContext, symbols: Sequence[str]) -> int:
    """Enqueue the job for those of the symbols that need it; return how many were not in the queue yet."""
    due = await find_unasked(context.pool, symbols, context.rest.clock.now() - ASKED_EVERY)
    return sum([await context.jobs.fetch_ohlc(symbol) for symbol in due])
