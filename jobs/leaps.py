"""Trades whose ids leap absurdly far: the job that asks Kraken about them, and the look for those that wait."""

import asyncio
from typing import Any

from arq import Retry
from redis.exceptions import RedisError

from jobs.context import WorkerContext
from jobs.patient_jobs import again_soon
from kraken_history.completeness.holes import find_due_holes
from kraken_history.database.failures import is_transient
from kraken_history.errors import KrakenBusy, KrakenError, MalformedMessage, ServiceUnavailable, UnknownSymbol
from kraken_history.fetching.confirming import confirm as ask_kraken
from kraken_history.fetching.confirming import forget_unknown
from kraken_history.runtime import telemetry
from kraken_history.storing.waiting import find_waiting_symbols
from kraken_history.stream.dead_letters import DeadLetters

LOOK_EVERY_S = 3.0
"""Seconds between two looks for trades that wait."""

_RETRY_AFTER_S = 15.0

_log = telemetry.get_logger("worker")


@again_soon
async def confirm(ctx: dict[str, Any], symbol: str) -> int:
    """Ask Kraken about the waiting trades of a symbol; return how many trades were stored.

    A trade that two pages, a minute apart, do not show becomes a dead letter.
    """
    context: WorkerContext = ctx["context"]
    try:
        pair = await context.pairs.find(symbol)
        confirmed = await ask_kraken(context.pool, context.store, context.rest, pair)
    except (KrakenBusy, ServiceUnavailable) as error:
        telemetry.FETCH_FAILURES.labels(symbol=symbol, work="confirm", outcome="later").inc()
        _log.warning("confirm_postponed", symbol=symbol, error=str(error))
        raise Retry(defer=_RETRY_AFTER_S) from error
    except (KrakenError, MalformedMessage, UnknownSymbol) as error:
        telemetry.FETCH_FAILURES.labels(symbol=symbol, work="confirm", outcome="failed").inc()
        _log.error("confirm_failed", symbol=symbol, error=str(error))
        return 0
    letters = DeadLetters(context.streams or ctx["redis"], max_letters=context.settings.dead_letters_max)
    for trade in confirmed.unknown:  # first the letter: a worker that dies in between leaves a second one
        await letters.put_unknown(trade, shards=context.settings.stream_shards)
        await forget_unknown(context.pool, [trade])
    if confirmed.stored:
        holes = await find_due_holes(context.pool, now=context.rest.clock.now(), symbols=[symbol])
        await context.jobs.heal_holes(holes)
    return confirmed.stored


async def request_confirmations(context: WorkerContext) -> int:
    """Request the job for each symbol of which a trade waits; return how many were not in the queue yet."""
    return sum([await context.jobs.confirm(symbol) for symbol in await find_waiting_symbols(context.pool)])


async def keep_confirming(context: WorkerContext) -> None:
    """Look for waiting trades every :data:`LOOK_EVERY_S`, until cancelled. Outages are logged elsewhere."""
    while True:
        try:
            await request_confirmations(context)
        except Exception as error:
            if not isinstance(error, RedisError) and not is_transient(error):
                _log.error("waiting_trades_not_looked_at", error=f"{type(error).__name__}: {error}")
        await asyncio.sleep(LOOK_EVERY_S)
