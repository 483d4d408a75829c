"""``verify``: compare what is stored with what it was made from, and repair it."""

import asyncio
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

import asyncpg
import msgspec
import typer
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from kraken_history.cli import servers as server_choice
from kraken_history.cli.archive import run_check
from kraken_history.cli.instants import instant, instant_option
from kraken_history.cli.missing_time import rough
from kraken_history.cli.repairing import Repaired, repair
from kraken_history.cli.tables import moment_cell, print_table, table_of
from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import check_schema
from kraken_history.database.stored_symbols import fetch_stored_symbols
from kraken_history.errors import UsageError
from kraken_history.kraken.pairs import checked_name, find_stored
from kraken_history.reading.differences import Difference
from kraken_history.reading.verification import OnStep, Step, Verification, verify
from kraken_history.records import MINUTE
from kraken_history.runtime.processes import EXIT_FAILED
from kraken_history.settings import Settings, load_settings
from kraken_history.storing.repair import sole_repairer

_MOST_SHOWN = 40  # differences in the table; with --json there are all


class Outcome(Struct, frozen=True):
    """The last verification, and what was repaired before it; None if nothing was."""

    verification: Verification
    repaired: Repaired | None = None


def run_command(symbols: Sequence[str], from_: str | None, to: str | None, *, as_json: bool, repairs: bool) -> None:
    """Check the options, verify, and exit with 1 if anything differs."""
    for symbol in symbols:
        checked_name(symbol)
    start, end = instant_option("--from", from_), instant_option("--to", to)
    if start is not None and end is not None and start >= end:
        raise UsageError(f"--from ({instant(start)}) must be before --to ({instant(end)})")
    raise typer.Exit(run_verify(load_settings(), symbols, start, end, as_json=as_json, repairs=repairs))


def run_archive_check(
    uri: str, symbols: Sequence[str], from_: str | None, to: str | None, *, as_json: bool, repairs: bool
) -> None:
    """Check the options and the archive, and exit with 1 if anything is wrong."""
    if from_ is not None or to is not None or repairs:
        raise UsageError("expected --archive without --from, --to and --repair: it checks all months")
    raise typer.Exit(run_check(uri, symbols, as_json=as_json))


def run_verify(
    settings: Settings,
    symbols: Sequence[str],
    start: datetime | None,
    end: datetime | None,
    *,
    as_json: bool,
    repairs: bool,
) -> int:
    """Verify, and repair if requested; print the outcome and return the exit code."""
    run = repair_and_verify if repairs else _verify
    with server_choice.database(settings) as database_url, _Bar() as bar:
        outcome = asyncio.run(run(database_url, symbols, start, end, bar.note))
    if as_json:
        sys.stdout.write(msgspec.json.encode(as_object(outcome)).decode() + "\n")
    else:
        _print(outcome, repairs=repairs)
    return 0 if outcome.verification.is_right else EXIT_FAILED


async def _verify(
    database_url: str, names: Sequence[str], start: datetime | None, end: datetime | None, on_step: OnStep
) -> Outcome:
    pool = await create_pool(database_url, min_size=1, max_size=1, for_reading=True)
    async with pool, pool.acquire() as connection:
        await check_schema(connection)
        symbols = await _stored(connection, names)
        return Outcome(await verify(connection, symbols, start, end, on_step=on_step))


async def repair_and_verify(
    database_url: str,
    names: Sequence[str],
    start: datetime | None,
    end: datetime | None,
    on_step: OnStep = lambda _: None,
) -> Outcome:
    """Verify, repair what differs, and verify again.

    Raises:
        UsageError: The user of the database does not own the tables.
        RepairIsRunning: Another process is repairing.
        RefreshIsRunning: A refresh of the longer intervals did not end in time.
    """
    async with await create_pool(database_url, min_size=1, max_size=3) as pool:
        async with pool.acquire() as connection:
            await check_schema(connection)
            symbols = await _stored(connection, names)
        async with sole_repairer(pool):
            check = partial(_in_pool, pool, symbols, start, end, on_step)
            found = await check()
            if found.is_right:
                return Outcome(found)
            try:
                repaired = await repair(pool, found, symbols, start, end)
            except asyncpg.InsufficientPrivilegeError as error:
                raise UsageError(
                    f"expected the owner of the tables for --repair ({error}): use the URL of the user who migrates"
                ) from error
            return Outcome(await check(), repaired)


async def _in_pool(
    pool: asyncpg.Pool,
    symbols: Sequence[str] | None,
    start: datetime | None,
    end: datetime | None,
    on_step: OnStep,
) -> Verification:
    async with pool.acquire() as connection:
        return await verify(connection, symbols, start, end, on_step=on_step)


async def _stored(connection: asyncpg.pool.PoolConnectionProxy, names: Sequence[str]) -> list[str] | None:
    """The stored symbols of these names; None for all."""
    if not names:
        return None
    stored = await fetch_stored_symbols(connection)
    return sorted({find_stored(name, stored) for name in names})


class _Bar:
    """Progress on standard error: a bar on a terminal, otherwise a line every ten seconds."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[facts]}"), console=self._console, disable=not self._console.is_terminal,
            transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("verifying", total=1.0, facts="")
        self._started_s = self._line_s = time.monotonic()

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, step: Step) -> None:
        """Show a window. Longer candles are the smaller part of the work, so each kind counts from 0 to 100 %."""
        now_s = time.monotonic()
        if step.done == 1:
            self._started_s = now_s
        kind = "trades and minutes" if step.of == "trades" else "longer candles"
        facts = f"{step.window.start:%Y-%m-%d}, {step.rows:,} rows{self._left(step, now_s)}"
        self._progress.update(self._task, description=kind, completed=step.done / step.total, facts=facts)
        if not self._console.is_terminal and now_s - self._line_s >= _LINE_EVERY_S:
            self._line_s = now_s
            self._console.print(f"{kind}: {100 * step.done // step.total} %, {facts}", highlight=False, soft_wrap=True)

    def _left(self, step: Step, now_s: float) -> str:
        passed_s = now_s - self._started_s
        if passed_s < _ENOUGH_S or step.done < 2:
            return ""
        left_s = passed_s / (step.done - 1) * (step.total - step.done)
        return f", about {rough(timedelta(seconds=left_s))} left"


_LINE_EVERY_S = 10.0
_ENOUGH_S = 2.0


def as_object(outcome: Outcome) -> dict[str, object]:
    """The outcome for ``--json``. After a repair it has the member ``repaired`` as well."""
    verification = outcome.verification
    window = verification.window
    checked = {
        "symbols": verification.symbols,
        "from": None if window is None else instant(window.start),
        "to": None if window is None else instant(window.end),
        "trades": verification.trades,
        "candles": verification.candles,
        **verification.longer,
        "longer_candles": verification.given,
    }
    found: dict[str, object] = {
        "ok": verification.is_right,
        "checked": checked,
        "differences": [_as_object(each) for each in verification.differences],
    }
    return found if outcome.repaired is None else found | {"repaired": outcome.repaired}


def _as_object(difference: Difference) -> dict[str, str]:
    return {
        "symbol": difference.symbol,
        "what": difference.what,
        "start": instant(difference.start),
        "end": instant(difference.end),
        "detail": difference.detail,
    }


def _print(outcome: Outcome, *, repairs: bool) -> None:
    verification = outcome.verification
    if outcome.repaired is not None:
        for line in outcome.repaired.lines():
            sys.stdout.write(f"repaired: {line}\n")
    if verification.window is None:
        sys.stdout.write("nothing is stored in this range\n")
        return
    _print_counts(verification)
    if verification.is_right:
        sys.stdout.write("everything agrees\n")
        return
    print_differences(verification.differences)
    if all(each.what.startswith("given_") for each in verification.differences):
        sys.stderr.write("`kraken-history fetch-ohlc SYMBOL` or another import stores these candles again\n")
    elif not repairs:
        sys.stderr.write("`kraken-history verify --repair` rebuilds candles and ledger from the stored trades\n")


def _print_counts(verification: Verification) -> None:
    assert verification.window is not None
    window = f"{instant(verification.window.start)} to {instant(verification.window.end)}"
    sys.stdout.write(f"{len(verification.symbols)} symbol(s), {window}\n")
    table = table_of("verified", "rows")
    table.add_row("trades", f"{verification.trades:,}")
    table.add_row("candles 1m", f"{verification.candles:,}")
    for view, count in verification.longer.items():
        table.add_row(view.replace("_", " "), f"{count:,}")
    table.add_row("without minutes", f"{verification.given:,}")
    print_table(table)


def print_differences(differences: Sequence[Difference]) -> None:
    """Print the first differences, a line each."""
    sys.stdout.write(f"{len(differences):,} difference(s)\n")
    table = table_of("symbol", "what", "when", "detail", texts=("what", "when", "detail"))
    for column in table.columns:
        column.justify = "left"
    for each in differences[:_MOST_SHOWN]:
        what = each.what.replace("_", " ")
        table.add_row(each.symbol, what, _when(each), each.detail)
    print_table(table)
    if len(differences) > _MOST_SHOWN:
        sys.stdout.write(f"… and {len(differences) - _MOST_SHOWN:,} more: --json prints all\n")


def _when(difference: Difference) -> str:
    """The start, and the end if it is not in the same minute."""
    start, end = moment_cell(difference.start), moment_cell(difference.end)
    return start if difference.end - difference.start <= MINUTE else f"{start} to {end}"
