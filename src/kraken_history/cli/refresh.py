"""``refresh``: update the stored candles of the longer intervals, without a worker."""

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import Struct
from rich.console import Console

from kraken_history.cli import servers as server_choice
from kraken_history.cli.instants import instant, range_options
from kraken_history.cli.refresh_progress import RefreshProgress
from kraken_history.cli.tables import moment_cell, print_table, table_of
from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import check_schema
from kraken_history.errors import UsageError
from kraken_history.records import TimeRange
from kraken_history.settings import Settings, load_settings
from kraken_history.storing.aggregates import Refreshed, refresh
from kraken_history.storing.longer_intervals import AGGREGATES
from kraken_history.storing.map_building import build_missing_maps

_WAIT_S = 600.0  # how long to wait for a refresh by the worker to end
_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)  # earlier than any trade


class RefreshedInterval(Struct, frozen=True):
    """Summary of one interval, from the start of its oldest refreshed window to the end of its newest."""

    interval: str
    start: datetime
    end: datetime
    windows: int
    kept: int


def run_command(from_: str | None, to: str | None, *, as_json: bool) -> None:
    """Check the options and refresh."""
    start, end = range_options(from_, to)
    run_refresh(load_settings(), start, end, as_json=as_json)


def run_refresh(settings: Settings, start: datetime | None, end: datetime | None, *, as_json: bool) -> None:
    """Refresh, and print a summary per interval."""
    within = _range(start, end)
    with server_choice.database(settings) as database_url:
        intervals = summarized(asyncio.run(_run(database_url, within)))
    if as_json:
        sys.stdout.write(msgspec.json.encode(intervals).decode() + "\n")
    elif intervals:
        print_refreshed(intervals)
    else:
        sys.stderr.write("nothing to refresh: every closed candle is up to date\n")


def _range(start: datetime | None, end: datetime | None) -> TimeRange | None:
    if start is None and end is None:
        return None
    start, end = start or _BEGINNING, end or datetime.now(UTC)
    if start >= end:
        raise UsageError(f"the range is reversed or empty: --from {instant(start)} must be before --to {instant(end)}")
    return TimeRange(start, end)


async def _run(database_url: str, within: TimeRange | None) -> list[Refreshed]:
    async with await create_pool(database_url, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            await check_schema(connection)
        with RefreshProgress(Console(stderr=True), lambda line: sys.stderr.write(f"{line}\n")) as progress:
            refreshed = await refresh(pool, within=within, wait_s=_WAIT_S, told=progress.show)
        await build_missing_maps(pool, now=await pool.fetchval("SELECT now()"))
        return refreshed


def summarized(refreshed: Sequence[Refreshed]) -> list[RefreshedInterval]:
    """One summary per interval with at least one refreshed window."""
    found = []
    for aggregate in AGGREGATES:
        mine = [each for each in refreshed if each.view == aggregate.view]
        if mine:
            start, end = min(each.window.start for each in mine), max(each.window.end for each in mine)
            name = aggregate.view.removeprefix("candles_")
            found.append(RefreshedInterval(name, start, end, len(mine), sum(each.kept for each in mine)))
    return found


def print_refreshed(intervals: Sequence[RefreshedInterval]) -> None:
    """Print what was refreshed, an interval per line."""
    table = table_of("refreshed", "from", "to", "ranges", "kept as they were", times=("from", "to"))
    for each in intervals:
        table.add_row(each.interval, moment_cell(each.start), moment_cell(each.end), str(each.windows), str(each.kept))
    print_table(table)
    if any(each.kept for each in intervals):
        sys.stderr.write("some candles were kept as they were, because their one-minute candles have been deleted\n")
