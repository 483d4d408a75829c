"""Healing: the job for one hole, and the sweep that finds holes nobody has asked for."""

from typing import Any

from jobs.context import WorkerContext
from kraken_history import telemetry
from kraken_history.errors import KrakenBusy, KrakenRefused, MalformedMessage, ServiceUnavailable, UnknownSymbol
from kraken_history.healing import find_holes
from kraken_history.healing import heal as heal_hole

_RETRY_AFTER_S = 15.0
_MOST_SWEPT = 100  # holes a symbol and sweep; the next sweep takes the next

_log = telemetry.get_logger("worker")


async def heal(ctx: dict[str, Any], symbol: str, first: int, stop: int, since: int | None) -> int:
    """Fetch the missing ids of ``[first, stop)``; return how many trades that brought.

    A long hole is healed in several jobs, each asking for the next.
    """
    context: WorkerContext = ctx["context"]
    try:
        pair = await context.pairs.find(symbol)
        healed = await heal_hole(context.pool, context.store, context.rest, pair, (first, stop), since=since)
    except (KrakenBusy, ServiceUnavailable) as error:
        _log.warning("heal_postponed", symbol=symbol, first=first, error=str(error))
        await context.jobs.heal(symbol, (first, stop), since=since, delay_s=_RETRY_AFTER_S)
        return 0
    except (KrakenRefused, MalformedMessage, UnknownSymbol) as error:
        _log.error("heal_failed", symbol=symbol, first=first, error=str(error))
        return 0
    if healed.next_since is not None:
        await context.jobs.heal(symbol, (first, stop), since=healed.next_since, delay_s=0)
    return healed.stored


async def sweep(ctx: dict[str, Any]) -> int:
    """Ask for every hole in the ledger; return how many were not in the queue yet.

    Finds what the consumer's own requests missed: a Redis that was wiped, a job that died.
    """
    context: WorkerContext = ctx["context"]
    holes = await find_holes(context.pool)
    asked = 0
    for symbol, missing in holes.items():
        telemetry.HOLES.labels(symbol=symbol).set(len(missing))
        for hole in list(missing)[-_MOST_SWEPT:]:
            asked += await context.jobs.heal(symbol, hole, delay_s=0)
    return asked
