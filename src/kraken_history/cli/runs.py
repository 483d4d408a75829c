"""``runs``: list, show and compare saved backtest and paper runs."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import msgspec
from rich.table import Table

from kraken_history.backtests import RunSummary, SavedRun, list_runs, load_run
from kraken_history.cli import servers as server_choice
from kraken_history.cli.instants import instant
from kraken_history.cli.tables import print_table, table_of
from kraken_history.database.connections import connect
from kraken_history.database.migrations import check_schema
from kraken_history.errors import UsageError
from kraken_history.reading.kinds import KINDS
from kraken_history.remedies import duration_text
from kraken_history.settings import load_settings

T = TypeVar("T")

_MOST_COMPARED = 4  # columns that fit into 80 characters
_SHORT_ID = 8  # characters of an id in tables
_FEW_METRICS = 3  # metrics of each run in the list
_DIGITS = 10  # significant digits of a number in tables; with --json there are all


def run_list(strategy: str | None, limit: int, *, as_json: bool) -> None:
    """Print the saved runs, newest first."""
    runs = _with_database(lambda connection: list_runs(connection, strategy, limit=limit))
    if as_json:
        _print_json([_summary(run) for run in runs])
    elif runs:
        _print_list(runs)
    else:
        sys.stderr.write("no run is saved" + (f" of strategy {strategy!r}" if strategy else "") + "\n")


def run_show(id_: str, *, as_json: bool) -> None:
    """Print one run."""
    (run,) = _with_database(lambda connection: _load(connection, [id_]))
    if as_json:
        _print_json(run)
    else:
        _print_run(run)


def run_compare(ids: Sequence[str], *, as_json: bool) -> None:
    """Print runs side by side."""
    if not 2 <= len(ids) <= _MOST_COMPARED:
        raise UsageError(f"expected 2 to {_MOST_COMPARED} ids to compare, got {len(ids)}")
    runs = _with_database(lambda connection: _load(connection, ids))
    if as_json:
        _print_json([_summary(run) for run in runs])
    else:
        _print_comparison(runs)


def _with_database(read: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    async def run(database_url: str) -> T:
        connection = await connect(database_url)
        try:
            await check_schema(connection)
            return await read(connection)
        finally:
            await connection.close()

    with server_choice.database(load_settings()) as database_url:
        return asyncio.run(run(database_url))


async def _load(connection: asyncpg.Connection, ids: Sequence[str]) -> list[SavedRun]:
    return [await load_run(connection, await _id_of(connection, each)) for each in ids]


async def _id_of(connection: asyncpg.Connection, start: str) -> UUID:
    """The id of the run whose id begins with this text.

    Raises:
        UsageError: None does, or several do.
    """
    text = start.strip().lower()
    rows = await connection.fetch(_MATCHING, text) if text else []
    if not rows:
        raise UsageError(f"expected the id of a saved run, got {start!r}: `kraken-history runs` lists them")
    if len(rows) > 1:
        several = " and ".join(str(row["id"]) for row in rows)
        raise UsageError(f"{start!r} is the beginning of several ids, such as {several}: write more of the one meant")
    found: UUID = rows[0]["id"]
    return found


_MATCHING = "SELECT id FROM backtest_runs WHERE starts_with(id::text, $1) ORDER BY created_at DESC, id LIMIT 2"


def coverage_words(run: RunSummary | SavedRun) -> str:
    """The coverage of the history that a run read, in words; empty if none was saved with it."""
    if run.coverage is None or not run.coverage.symbols:
        return ""
    symbols = run.coverage.symbols.values()
    kinds = {kind: timedelta(seconds=sum(getattr(each, f"{kind}_s") for each in symbols)) for kind in KINDS}
    found = ", ".join(f"{kind} {duration_text(length)}" for kind, length in kinds.items() if length)
    details = [f"gaps={run.coverage.gaps}"] if run.coverage.gaps else []
    details += [f"at {run.coverage.interval} min"] if run.coverage.interval != 1 else []
    return f"{found} ({', '.join(details)})" if details else found


def _summary(run: RunSummary | SavedRun) -> dict[str, Any]:
    """The run without its trades and its equity curve, also if they were read."""
    return {name: getattr(run, name) for name in RunSummary.__struct_fields__}


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def flat(values: Mapping[str, Any], symbols: Sequence[str]) -> dict[str, Any]:
    """Metrics or parameters without objects in them: ``{"BTC/USDT": {"profit": 1}}`` is ``{"BTC/USDT profit": 1}``.

    The name of the only symbol of a run is left out.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            prefix = "" if [name] == list(symbols) else f"{name} "
            found |= {f"{prefix}{inner}": each for inner, each in flat(value, symbols).items()}
        else:
            found[name] = value
    return found


def _print_list(runs: Sequence[RunSummary]) -> None:
    table = table_of("id", "strategy", "symbols", "range", "metrics", "saved")
    for column in table.columns:
        column.justify = "left"
    for run in runs:
        found = flat(run.metrics, run.symbols)
        metrics = [f"{name} {shown(value)}" for name, value in list(found.items())[:_FEW_METRICS]]
        more = len(found) - _FEW_METRICS
        table.add_row(
            str(run.id)[:_SHORT_ID], run.strategy_name, " ".join(run.symbols), f"{run.start_time:%Y-%m-%d} to "
            f"{run.end_time:%Y-%m-%d}{_missing_words(run)}",
            "\n".join([*metrics, f"and {more} more"] if more > 0 else metrics),
            f"{run.created_at:%Y-%m-%d %H:%M}Z",
        )  # fmt: skip
    print_table(table)


def _missing_words(run: RunSummary) -> str:
    """A line of its own in the cell of the range, if a part of the history was missing."""
    missing = sum(each.missing_s for each in run.coverage.symbols.values()) if run.coverage else 0
    return f"\nmissing {duration_text(timedelta(seconds=missing))}" if missing else ""


def _print_run(run: SavedRun) -> None:
    table = Table(show_header=False, title=f"run {run.id}", title_justify="left")
    for name, value in _facts(run).items():
        table.add_row(name, value)
    trades = "not saved" if run.trades is None else f"{len(run.trades):,}"
    points = "not saved" if run.equity_curve is None else f"{len(run.equity_curve):,} points"
    table.add_row("trades", trades)
    table.add_row("equity curve", points)
    for name, values in (("parameter", run.parameters), ("metric", run.metrics)):
        for key, value in flat(values, run.symbols).items():
            table.add_row(f"{name} {key}", shown(value))
    print_table(table)


def _facts(run: SavedRun) -> dict[str, str]:
    facts = {
        "strategy": run.strategy_name,
        "symbols": " ".join(run.symbols),
        "from": instant(run.start_time),
        "to": instant(run.end_time),
        "saved": f"{run.created_at:%Y-%m-%d %H:%M}Z",
    }
    words = coverage_words(run)
    return facts | ({"coverage": words} if words else {})


def _print_comparison(runs: Sequence[SavedRun]) -> None:
    table = table_of("", *(str(run.id)[:_SHORT_ID] for run in runs))
    for name, values in _side_by_side([_facts(run) for run in runs]):
        _add_row(table, name, values)
    for kind, parts in (("parameter", _flat_parts(runs, "parameters")), ("metric", _flat_parts(runs, "metrics"))):
        table.add_section()
        for name, values in _side_by_side(parts):
            _add_row(table, f"{kind} {name}", values)
    print_table(table)
    sys.stdout.write("* not the same in all runs\n")


def _flat_parts(runs: Sequence[SavedRun], part: str) -> list[dict[str, Any]]:
    return [flat(getattr(run, part), run.symbols) for run in runs]


def _side_by_side(parts: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Each name that any part has, with its value in each; :data:`_NOTHING` where it has none."""
    names = {name: None for part in parts for name in part}
    return [(name, [part.get(name, _NOTHING) for part in parts]) for name in names]


class _Nothing:
    """The value of a name that a run lacks."""


_NOTHING = _Nothing()


def _add_row(table: Table, name: str, values: Sequence[Any]) -> None:
    is_same = all(value == values[0] for value in values)
    table.add_row(name if is_same else f"{name} *", *map(shown, values))


def shown(value: object) -> str:
    """A parameter or metric in a table: numbers in a few digits, everything else as JSON without quotes."""
    if isinstance(value, _Nothing):
        return "-"
    number = _number(value)
    if number is not None:
        return number
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _number(value: object) -> str | None:
    """A number, or a Decimal that was saved as text, in :data:`_DIGITS` digits; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = Decimal(str(value))
    except ArithmeticError:
        return None
    if not number.is_finite():
        return str(value)
    if len(number.as_tuple().digits) <= _DIGITS:
        return without_zeros(str(value))
    return f"{number:.{_DIGITS}g}"


def without_zeros(text: str) -> str:
    """A number without zeros at the end of its decimals."""
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text.lower() else text
