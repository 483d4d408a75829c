"""``import-csv``: store Kraken's downloadable CSV files in the database."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import typer
from rich.console import Console

from kraken_history.cli import servers as server_choice
from kraken_history.cli.import_progress import ImportProgress
from kraken_history.cli.missing_time import Gap
from kraken_history.cli.open_seams import find_seams, report_seams
from kraken_history.cli.redis_away import connect_patiently
from kraken_history.cli.tables import is_narrow_terminal, moment_cell, print_table, table_of
from kraken_history.cli.worker_notice import worker_notice
from kraken_history.csv_import import CsvError, CsvFile, CsvImporter, Imported, Skipped, found_files
from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import check_schema
from kraken_history.fetching.queue import JobQueue, queue_on
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.limiter import LocalRateLimiter
from kraken_history.kraken.pairs import checked_name
from kraken_history.runtime.processes import EXIT_FAILED
from kraken_history.settings import Settings, load_settings
from kraken_history.storing.aggregates import refresh_if_free
from kraken_history.storing.longer_intervals import Aggregate
from kraken_history.storing.map_building import build_missing_maps

_MOST_NAMED = 3


def run_command(paths: Sequence[Path], symbol: str | None, *, worker: bool) -> None:
    """Import the files, or request it from the worker, and exit with the code."""
    settings = load_settings()
    name = None if symbol is None else checked_name(symbol)
    if worker:
        raise typer.Exit(run_ask_worker(settings, paths, name))
    raise typer.Exit(run_import(settings, paths, name))


def run_import(settings: Settings, paths: Sequence[Path], symbol: str | None) -> int:
    """Import in this process, and report the outcome of each file; return the exit code."""
    with found_files(paths) as (files, refused):
        outcomes: list[Imported | Skipped | CsvError] = list(refused)
        seams: dict[str, list[Gap]] = {}
        try:
            if files:
                with server_choice.database(settings) as database_url:
                    asyncio.run(_import(database_url, settings, files, symbol, outcomes))
                    seams = asyncio.run(find_seams(database_url, outcomes))
        except BaseException:
            if len(outcomes) > len(refused):  # report the files imported before the failure
                _report(outcomes)
            raise
        if outcomes:
            _report(outcomes)
        report_seams(seams)
    return EXIT_FAILED if any(isinstance(outcome, CsvError) for outcome in outcomes) else 0


def run_ask_worker(settings: Settings, paths: Sequence[Path], symbol: str | None) -> int:
    """Add the import to the worker's queue; return the exit code."""
    with server_choice.jobs_redis(settings) as redis_url:
        is_new, notice = asyncio.run(_ask(redis_url, settings, [str(path.absolute()) for path in paths], symbol))
    done = "requested from the worker: import of" if is_new else "already in the worker's queue: import of"
    sys.stderr.write(f"{done} {len(paths)} path(s). The worker's log reports the outcome of each file\n{notice}")
    return 0


async def _ask(redis_url: str, settings: Settings, paths: Sequence[str], symbol: str | None) -> tuple[bool, str]:
    async with await connect_patiently(redis_url, settings) as redis:
        is_new = await JobQueue(queue_on(redis)).import_csv(paths, symbol=symbol)
        return is_new, await worker_notice(redis)


async def _import(
    database_url: str,
    settings: Settings,
    files: Sequence[CsvFile],
    symbol: str | None,
    outcomes: list[Imported | Skipped | CsvError],
) -> None:
    """Import the files, and append the outcome of each."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(await create_pool(database_url, min_size=1, max_size=1))
        async with pool.acquire() as connection:
            await check_schema(connection)
        rest = await stack.enter_async_context(KrakenRest(settings.kraken_rest_url, LocalRateLimiter(), attempts=1))
        importer = CsvImporter(pool, rest.fetch_asset_pairs, symbol=symbol)
        with ImportProgress(files, Console(stderr=True), lambda line: sys.stderr.write(f"{line}\n")) as progress:
            async for outcome in importer.import_files(files, progress.show):
                outcomes.append(outcome)
                progress.passed()
            if any(isinstance(outcome, Imported) for outcome in outcomes):
                await refresh_if_free(pool, told=partial(_show_refresh, progress))
                await build_missing_maps(pool, now=await pool.fetchval("SELECT now()"))
        if importer.note:
            sys.stderr.write(f"{importer.note}\n")


def _show_refresh(progress: ImportProgress, aggregate: Aggregate, done: int, wanted: int) -> None:
    progress.show_refresh(aggregate.interval, done, wanted)


def _report(outcomes: Sequence[Imported | Skipped | CsvError]) -> None:
    imported = [outcome for outcome in outcomes if isinstance(outcome, Imported)]
    skipped = [outcome for outcome in outcomes if isinstance(outcome, Skipped)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, CsvError)]
    if imported:
        print_imported(imported)
    by_reason: dict[str, list[str]] = {}
    for skip in skipped:
        by_reason.setdefault(skip.reason, []).append(skip.file)
    for reason, names in by_reason.items():
        more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
        sys.stderr.write(f"skipped {', '.join(names[:_MOST_NAMED])}{more}: {reason}\n")
    cut = {file.symbol: None for file in imported if file.is_name_cut}
    if cut:
        sys.stderr.write(f"no list of pairs from Kraken: by their names alone, files were taken for {', '.join(cut)}\n")
    for error in refused:
        sys.stderr.write(f"refused {error}\n")
    new, replaced = sum(file.new_candles for file in imported), sum(file.replaced_candles for file in imported)
    sys.stderr.write(
        f"{len(imported):,} file(s) imported, {len(skipped):,} skipped, {len(refused):,} refused;"
        f" {new:,} candle(s) new, {replaced:,} replaced\n"
    )


def print_imported(imported: Sequence[Imported]) -> None:
    """Print a line per file. In a narrow terminal there is no room for its folders, and for the number of its rows."""
    is_narrow = is_narrow_terminal()
    counts = ("candles", "new", "replaced") if is_narrow else ("rows", "candles", "new", "replaced")
    table = table_of("file", "symbol", *counts, "from", "to", times=("from", "to"), texts=["file"])
    for file in imported:
        figures = (file.rows, file.candles, file.new_candles, file.replaced_candles)[-len(counts) :]
        table.add_row(
            Path(file.file).name if is_narrow else file.file,
            file.symbol,
            *(f"{n:,}" for n in figures),
            moment_cell(file.start),
            moment_cell(file.end),
        )
    print_table(table)
