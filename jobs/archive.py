"""The worker's archive job: keep the archive of ``ARCHIVE_URL`` up to date. It is off until that is set."""

import asyncio
from typing import Any

from jobs.context import WorkerContext
from jobs.patient_jobs import within_its_turn
from kraken_history.database.stored_symbols import fetch_stored_symbols
from kraken_history.errors import HistoryError, ServiceUnavailable
from kraken_history.runtime import telemetry

ARCHIVE_TIMEOUT_S = 6 * 3600
"""Maximum duration of a run, in seconds. The first one of a long history takes hours; the next continues it."""

_log = telemetry.get_logger("worker")


@within_its_turn
async def update_archive(ctx: dict[str, Any]) -> int:
    """Archive the closed months that are new or changed; return how many were written."""
    context: WorkerContext = ctx["context"]
    if context.settings.archive_url is None:
        return 0
    try:
        return await _update(context, context.settings.archive_url.get_secret_value())
    except ServiceUnavailable:
        raise
    except HistoryError as error:
        _log.error("archive_failed", error=str(error))
        return 0


async def _update(context: WorkerContext, url: str) -> int:
    # Here, because only this job needs pyarrow.
    from kraken_history.reading.arrow_stream import require_packages

    await require_packages("arrow", "pyarrow")
    from kraken_history.archive.place import place_of
    from kraken_history.archive.writing import ArchiveIsRunning, archive

    place = await asyncio.to_thread(place_of, url)
    written = 0
    async with context.unhurried_pool.acquire() as connection:
        symbols = await fetch_stored_symbols(connection)
    try:
        async for each in archive(context.unhurried_pool, place, sorted(symbols)):
            if each.reason:
                _log.warning("month_not_archived", symbol=each.symbol, month=str(each.month), reason=each.reason)
            elif each.state != "current":
                _log.info("month_archived", symbol=each.symbol, month=str(each.month), state=each.state)
                written += 1
    except ArchiveIsRunning:
        _log.info("archive_is_running")
    return written
