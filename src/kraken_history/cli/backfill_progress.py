"""Progress of a backfill, on standard error: a bar on a terminal, otherwise a line every ten seconds."""

import asyncio
import time
from collections import deque
from datetime import datetime, timedelta

import asyncpg
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from kraken_history.cli.missing_time import rough
from kraken_history.fetching.backfill_targets import Backfill, list_backfills

_LOOK_EVERY_S = 0.5
_LINE_EVERY_S = 10.0
_RATE_OVER_S = 60.0
_ENOUGH_S = 2.0


class _Sample(Struct, frozen=True):
    at_s: float
    reached: datetime | None
    trades: int


class Pace:
    """Speed and estimated remaining time of a backfill, from the samples of the last minute.

    The estimate divides the remaining time of the tape by the time covered per second. It is rough: a quiet year
    is fetched faster than a busy one, and trades that are stored already are skipped.
    """

    def __init__(self) -> None:
        self._seen: deque[_Sample] = deque()

    def note(self, backfill: Backfill, at_s: float) -> None:
        """Add a sample, taken at this time of a monotonic clock."""
        self._seen.append(_Sample(at_s, backfill.reached, backfill.trades))
        while at_s - self._seen[0].at_s > _RATE_OVER_S:
            self._seen.popleft()

    @property
    def trades_per_s(self) -> float:
        """New trades per second."""
        first, last = self._seen[0], self._seen[-1]
        return (last.trades - first.trades) / (last.at_s - first.at_s) if last.at_s > first.at_s else 0.0

    def remaining(self, end: datetime) -> timedelta | None:
        """Estimated time until the backfill reaches ``end``; None while too little was seen to estimate it."""
        started = next((sample for sample in self._seen if sample.reached is not None), None)
        last = self._seen[-1]
        if started is None or started.reached is None or last.reached is None or last.at_s - started.at_s < _ENOUGH_S:
            return None
        covered = last.reached - started.reached
        if covered <= timedelta():
            return None
        left = max(end - last.reached, timedelta())
        return timedelta(seconds=(last.at_s - started.at_s) * (left / covered))


async def follow(pool: asyncpg.Pool, symbol: str) -> Backfill:
    """Show a symbol's backfill until it stops running; return its final state."""
    console = Console(stderr=True)
    pace = Pace()
    with progress_bar(console) as progress:
        task = progress.add_task(symbol, total=1.0, facts="")
        next_line_s = 0.0
        while True:
            (backfill,) = await list_backfills(pool, symbol)
            now_s = time.monotonic()
            pace.note(backfill, now_s)
            facts = describe(backfill, pace)
            is_over = backfill.state != "running"
            done = 1.0 if backfill.state == "done" else part_done(backfill, await _oldest(pool, symbol))
            progress.update(task, completed=done, facts=facts)
            if not console.is_terminal and now_s >= next_line_s:
                console.print(f"{symbol}: {100 * done:.0f} %, {facts}", highlight=False, soft_wrap=True)
                next_line_s = now_s + _LINE_EVERY_S
            if is_over:
                return backfill
            await asyncio.sleep(_LOOK_EVERY_S)


def progress_bar(console: Console) -> Progress:
    """A bar of one line. In a narrow terminal the facts are cut off at their end, where they matter least."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[facts]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        console=console,
        disable=not console.is_terminal,
        expand=True,
    )


def part_done(backfill: Backfill, oldest: datetime | None) -> float:
    """Covered fraction, 0 to 1, of the time between the beginning and the end.

    Args:
        oldest: Time of the oldest stored trade; the beginning, if the backfill has no start.
    """
    start = backfill.target_start or oldest
    if start is None or backfill.reached is None or backfill.target_end <= start:
        return 0.0
    return min(max((backfill.reached - start) / (backfill.target_end - start), 0.0), 1.0)


def describe(backfill: Backfill, pace: Pace) -> str:
    """The remaining time, the date reached, trades, speed and pages; the most important first."""
    reached = "nothing yet" if backfill.reached is None else f"{backfill.reached:%Y-%m-%d}"
    facts = f"{reached}, {backfill.trades:,} trades, {pace.trades_per_s:,.0f}/s, {backfill.pages:,} pages"
    if backfill.state != "running":
        return facts
    remaining = pace.remaining(backfill.target_end)
    return f"{'time left unknown' if remaining is None else f'about {rough(remaining)} left'}, {facts}"


async def _oldest(pool: asyncpg.Pool, symbol: str) -> datetime | None:
    moment: datetime | None = await pool.fetchval(
        "SELECT oldest_timestamp FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'", symbol
    )
    return moment
