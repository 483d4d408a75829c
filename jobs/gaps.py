"""Gaps in time: the job that fills the gaps of one symbol, and the cron job that enqueues it."""

import asyncio
from datetime import timedelta
from typing import Any

from arq import Retry

from jobs.context import WorkerContext
from jobs.longer_history import fetch_ohlc_of_all
from jobs.patient_jobs import again_soon, within_its_turn
from kraken_history.completeness.gap_search import find_symbols_with_gaps
from kraken_history.completeness.holes import find_due_holes
from kraken_history.errors import KrakenBusy, KrakenError, MalformedMessage, ServiceUnavailable, UsageError
from kraken_history.fetching.gaps import GapFiller, wants_candles
from kraken_history.records import DataGap
from kraken_history.runtime import liveness, telemetry

EVERY_MINUTES = 5
"""Minutes between searches for gaps."""
PAGES_A_JOB = 20
"""Maximum number of pages that one job fetches per gap; the next job continues."""

_RETRY_AFTER_S = 15.0
_LOOK_UP_AGAIN_S = 60.0

_log = telemetry.get_logger("worker")


@again_soon
async def fill_gap(ctx: dict[str, Any], symbol: str, min_gap_minutes: float, turn: int) -> int:
    """Fill the gaps of one symbol; return how many trades were stored.

    The exchange's candles come first, if they can be fetched at once. Trades that have become a hole in the ids are
    left to healing: if a long stretch before the oldest trade is missing, one page is fetched here, which makes the
    rest a hole. A long stretch after the newest trade is fetched in several jobs, each of which enqueues the next.
    """
    context: WorkerContext = ctx["context"]
    try:
        symbol = await context.pairs.symbol_of(symbol)
        filler = GapFiller(
            context.pool,
            context.store,
            context.rest,
            context.pairs.find,
            symbols=[symbol],
            history_days=context.settings.history_days,
        )
        signs = await liveness.signs_of_life(ctx["redis"])
        gaps = await filler.detect_gaps(min_gap_minutes, live_ids=signs.live_ids)
        for gap in gaps:
            await _fill_candles(filler, gap)
        await _ask_for_holes(context, symbol)
        stored, is_done = 0, True
        for gap in reversed(gaps):
            if await filler.is_uncovered(gap):
                fetched = await filler.fetch_forward(gap, max_pages=PAGES_A_JOB, stops_at_hole=True)
                stored += fetched.trades
                is_done &= fetched.is_done
    except (KrakenBusy, ServiceUnavailable) as error:
        telemetry.FETCH_FAILURES.labels(symbol=symbol, work="gap", outcome="later").inc()
        _log.warning("gap_fill_postponed", symbol=symbol, error=str(error))
        raise Retry(defer=_RETRY_AFTER_S) from error
    except (KrakenError, MalformedMessage, UsageError) as error:
        telemetry.FETCH_FAILURES.labels(symbol=symbol, work="gap", outcome="failed").inc()
        _log.error("gap_fill_failed", symbol=symbol, error=str(error))
        return 0
    await _ask_for_holes(context, symbol)
    if not is_done:
        await context.jobs.fill_gap(symbol, min_gap_minutes=min_gap_minutes, turn=turn)
    if gaps:
        _log.info("gaps_filled", symbol=symbol, gaps=len(gaps), stored=stored, is_done=is_done)
    return stored


@within_its_turn
async def fill_gaps(ctx: dict[str, Any]) -> int:
    """Enqueue the gap job of every symbol of the settings that has a gap; return how many were not in the queue yet."""
    context: WorkerContext = ctx["context"]
    now = context.rest.clock.now()
    live_ids = (await liveness.signs_of_life(ctx["redis"])).live_ids
    start = now - timedelta(days=context.settings.history_days)
    symbols = await find_symbols_with_gaps(context.pool, context.symbols, start, live_ids=live_ids, now=now)
    return await context.jobs.fill_gaps(symbols)


async def look_names_up(ctx: dict[str, Any]) -> None:
    """Look up the names in ``SYMBOLS`` until Kraken has answered. If that added symbols, enqueue the gap jobs."""
    context: WorkerContext = ctx["context"]
    before = context.symbols
    while not await context.find_names():  # noqa: ASYNC110 — Kraken sends no event when it is available again
        await asyncio.sleep(_LOOK_UP_AGAIN_S)
    if context.symbols != before:
        await fetch_ohlc_of_all(ctx)
        await fill_gaps(ctx)


async def _fill_candles(filler: GapFiller, gap: DataGap) -> None:
    """Store the exchange's candles as stand-ins. If Kraken answers with an error, the trades are still fetched."""
    if not wants_candles(gap) or await filler.has_candles_of(gap):
        return
    try:
        await filler.fill_gap_ohlc(gap)
    except (KrakenBusy, UsageError):
        raise
    except (KrakenError, MalformedMessage) as error:
        telemetry.FETCH_FAILURES.labels(symbol=gap.symbol, work="candles", outcome="failed").inc()
        _log.error("candles_not_filled", symbol=gap.symbol, start=gap.start_time, error=str(error))


async def _ask_for_holes(context: WorkerContext, symbol: str) -> None:
    missing = (await find_due_holes(context.pool, now=context.rest.clock.now(), symbols=[symbol])).get(symbol)
    if missing:
        await context.jobs.heal_holes({symbol: missing})
