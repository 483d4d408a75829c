"""The job that imports Kraken's downloads from the worker's own disk."""

from pathlib import Path
from typing import Any

from jobs.context import WorkerContext
from kraken_history import telemetry
from kraken_history.csv_import import CsvError, CsvImporter, Imported, Skipped, found_files
from kraken_history.errors import UsageError

TIMEOUT_S = 24 * 3600
"""Kraken's master zip holds hundreds of millions of rows."""

_log = telemetry.get_logger("worker")


async def import_csv(ctx: dict[str, Any], paths: list[str], symbol: str | None) -> int:
    """Import files, folders and zips; return how many candles were new.

    Needs no state: a file is stored as a whole or not at all, so a job that died is simply run again, and passes
    over what is stored.
    """
    context: WorkerContext = ctx["context"]
    importer = CsvImporter(context.pool, context.rest.fetch_asset_pairs, symbol=symbol)
    new = 0
    try:
        with found_files(map(Path, paths)) as (files, refused):
            for error in refused:
                _refuse(error)
            async for outcome in importer.import_files(files):
                new += _note(outcome)
    except CsvError as error:
        _refuse(error)
    except UsageError as error:
        _log.error("csv_refused", reason=str(error))
    return new


def _note(outcome: Imported | Skipped | CsvError) -> int:
    match outcome:
        case Imported():
            figures = {"rows": outcome.rows, "new": outcome.new_candles, "replaced": outcome.replaced_candles}
            _log.info("csv_imported", file=outcome.file, symbol=outcome.symbol, **figures)
            return outcome.new_candles
        case Skipped():
            _log.debug("csv_skipped", file=outcome.file, reason=outcome.reason)
        case CsvError():
            _refuse(outcome)
    return 0


def _refuse(error: CsvError) -> None:
    _log.error("csv_refused", file=error.file, line=error.line, reason=error.reason)
