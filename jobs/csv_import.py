"""The job that imports Kraken's downloads from the worker's own disk."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arq import Retry

from jobs.context import WorkerContext
from kraken_history.csv_import import CsvError, CsvImporter, Imported, Skipped, found_files
from kraken_history.database.failures import is_transient
from kraken_history.errors import UsageError
from kraken_history.runtime import telemetry

TIMEOUT_S = 24 * 3600
"""Maximum duration of an import, in seconds: Kraken's master zip holds hundreds of millions of rows."""

IMPORT_TRIES = 20
"""Maximum number of tries of an import. A try ends when the database or the worker goes away."""

_RETRY_AFTER_S = 60.0
_NEARLY_S = 1.0  # tolerance: the worker's clock starts before the job's

_log = telemetry.get_logger("worker")


async def import_csv(ctx: dict[str, Any], paths: list[str], symbol: str | None, *, timeout_s: float = TIMEOUT_S) -> int:
    """Import files, folders and zips; return how many candles were new.

    The job keeps no state. A file is stored completely or not at all, so a job that died is run again, and does not
    change files that are already stored. The worker logs the outcome of each file, then ``csv_import_done``, or
    ``csv_import_given_up`` if the last try has failed.

    Args:
        timeout_s: After this many seconds the worker cancels the job and does not run it again.
    """
    until = time.monotonic() + timeout_s - _NEARLY_S
    last_words = _LastWords(paths, symbol, job_try=ctx["job_try"])
    try:
        return await _import(ctx["context"], paths, symbol)
    except asyncio.CancelledError:
        is_late = time.monotonic() >= until
        reason = f"the import took longer than {timeout_s / 3600:g} hours" if is_late else "the worker stopped"
        last_words.say(reason, is_final=is_late)
        raise
    except UsageError as error:
        last_words.say(str(error), is_final=True)
        return 0
    except Exception as error:
        if not is_transient(error):
            last_words.say(f"{type(error).__name__}: {error}", is_final=True)
            raise
        last_words.say(f"the database cannot be reached: {str(error) or type(error).__name__}")
        if last_words.is_final:
            return 0
        raise Retry(defer=_RETRY_AFTER_S) from error


class _LastWords:
    """Logs why a try ended early."""

    def __init__(self, paths: Sequence[str], symbol: str | None, *, job_try: int) -> None:
        self._asked = {"paths": list(paths), "symbol": symbol, "job_try": job_try}
        self.is_final = job_try >= IMPORT_TRIES
        self._log = telemetry.get_logger("worker")

    def say(self, reason: str, *, is_final: bool = False) -> None:
        if is_final or self.is_final:
            hint = "request the import again: files that are already stored do not change"
            self._log.error("csv_import_given_up", reason=reason, hint=hint, **self._asked)
        else:
            self._log.warning("csv_import_postponed", reason=reason, **self._asked)


async def _import(context: WorkerContext, paths: Sequence[str], symbol: str | None) -> int:
    importer = CsvImporter(context.unhurried_pool, context.rest.fetch_asset_pairs, symbol=symbol)
    outcomes: list[Imported | Skipped | CsvError] = []
    with found_files(map(Path, paths)) as (files, refused):
        for error in refused:
            _note(error)
            outcomes.append(error)
        async for outcome in importer.import_files(files):
            _note(outcome)
            outcomes.append(outcome)
    if importer.note:
        _log.warning("csv_symbol_not_listed", symbol=symbol, note=importer.note)
    imported = [outcome for outcome in outcomes if isinstance(outcome, Imported)]
    new, replaced = sum(o.new_candles for o in imported), sum(o.replaced_candles for o in imported)
    refusals = sum(isinstance(outcome, CsvError) for outcome in outcomes)
    figures = {"imported": len(imported), "refused": refusals, "new": new, "replaced": replaced}
    _log.info("csv_import_done", paths=list(paths), **figures)
    return new


def _note(outcome: Imported | Skipped | CsvError) -> None:
    match outcome:
        case Imported():
            figures = {"rows": outcome.rows, "new": outcome.new_candles, "replaced": outcome.replaced_candles}
            _log.info("csv_imported", file=outcome.file, symbol=outcome.symbol, **figures)
        case Skipped():
            _log.debug("csv_skipped", file=outcome.file, reason=outcome.reason)
        case CsvError():
            _log.error("csv_refused", file=outcome.file, line=outcome.line, reason=outcome.reason)
