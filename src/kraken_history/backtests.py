"""Runs of backtests: saved with what went in and what came out, listed, and loaded again.

Parameters and metrics are objects; what a strategy puts into them, and into trades and points of the equity curve,
is its own. Decimals are kept as strings and times as ISO 8601, so that nothing is rounded; they come back as such.
NumPy numbers are stored as Python numbers. A float that is not a number becomes ``None``.

A run carries the coverage that it was computed on: a profit that was made across a hole must not look like any other.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct

from kraken_history.arguments import whole_number
from kraken_history.database.connections import Connection
from kraken_history.database.stored_symbols import fetch_stored_symbols
from kraken_history.errors import HistoryError, InvalidNumber, UnknownSymbol, UsageError
from kraken_history.intervals import as_utc, checked_interval
from kraken_history.kraken.pairs import find_symbol
from kraken_history.reading.coverage import Coverage, coverage_on
from kraken_history.reading.gaps import GapsChoice, checked_gaps
from kraken_history.reading.kinds import KINDS

Json = Mapping[str, Any]
"""A JSON object: strings, numbers, Decimals, aware times, UUIDs, lists, further objects."""

_MOST_LISTED = 1_000

_RUN_COLUMNS = (
    "id, strategy_name, symbols, start_time, end_time, parameters::text, metrics::text, coverage::text, created_at"
)


class UnknownRun(UsageError):
    """A run that is not stored."""

    def __init__(self, id_: UUID | str) -> None:
        super().__init__(f"expected the id of a saved backtest run, got {id_}: list_runs() returns the saved runs")
        self.id = id_


class EquityPoint(Struct, frozen=True):
    """What an account was worth at one time."""

    timestamp: datetime
    equity: Decimal


class SymbolCoverage(Struct, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    """How much of a symbol's time is of each kind, in seconds; together they are the range from start to end.

    Attributes:
        proven_s, exchange_s, quiet_s, missing_s: See :data:`~kraken_history.reading.coverage.CoverageKind`.
    """

    start: datetime
    end: datetime
    proven_s: float
    exchange_s: float
    quiet_s: float
    missing_s: float

    @classmethod
    def of(cls, coverage: Coverage) -> "SymbolCoverage":
        """The sums of a coverage."""
        lengths = {f"{kind}_s": coverage.duration(kind).total_seconds() for kind in KINDS}
        return cls(start=coverage.start, end=coverage.end, **lengths)


class RunCoverage(Struct, frozen=True, kw_only=True):
    """What a run was computed on.

    Attributes:
        gaps: The choice with which the strategy read; None if the run does not say.
        interval: The interval at which the time is judged, in minutes: the exchange's hours and days may be there
            without their minutes.
        symbols: By symbol. A symbol of which nothing is stored has no entry.
    """

    gaps: GapsChoice | None = None
    interval: int = 1
    symbols: Mapping[str, SymbolCoverage]

    @property
    def missing_s(self) -> float:
        """How much of the time is missing, of all symbols together, in seconds."""
        return sum(each.missing_s for each in self.symbols.values())


class BacktestRun(Struct, frozen=True, kw_only=True):
    """A run to be saved.

    Attributes:
        start_time, end_time: The range that was tested, ``[start_time, end_time)``.
        trades: The strategy's own record of its trades; ``None`` if it was not saved.
        gaps: The choice with which the strategy read its candles; None if the run does not say.
        interval: The shortest interval of its candles, in minutes, at which :func:`save_run` judges the coverage.
        coverage: What the run was computed on. If None, :func:`save_run` looks it up for the range and the symbols.
    """

    strategy_name: str
    symbols: tuple[str, ...]
    start_time: datetime
    end_time: datetime
    parameters: Json
    metrics: Json
    trades: Sequence[Json] | None = None
    equity_curve: Sequence[EquityPoint] | None = None
    gaps: GapsChoice | None = None
    interval: int = 1
    coverage: RunCoverage | None = None


class RunSummary(Struct, frozen=True, kw_only=True):
    """A saved run as it is listed: without its trades and its equity curve.

    Attributes:
        coverage: What it was computed on; None for a run that was saved before this was kept.
    """

    id: UUID
    strategy_name: str
    symbols: tuple[str, ...]
    start_time: datetime
    end_time: datetime
    parameters: dict[str, Any]
    metrics: dict[str, Any]
    created_at: datetime
    coverage: RunCoverage | None = None


class SavedRun(BacktestRun, frozen=True, kw_only=True):
    """A run with its identity."""

    id: UUID
    created_at: datetime


async def save_run(pool: asyncpg.Pool | Connection, run: BacktestRun) -> UUID:
    """Save a run and return its id. A float that is not a number is kept as ``None``.

    A symbol whose candles are stored is kept under our name, whichever it is given under; any other as it is.

    Raises:
        UsageError: A part of the run cannot be stored; the message names the part.
    """
    _check(run)
    stored = await fetch_stored_symbols(pool)
    symbols = _our_symbols(run.symbols, stored)
    if run.coverage is None:
        coverage = await _coverage_of(pool, run, [symbol for symbol in symbols if symbol in stored])
    else:
        coverage = msgspec.structs.replace(run.coverage, gaps=run.gaps or run.coverage.gaps)
    values = (
        run.strategy_name,
        symbols,
        run.start_time,
        run.end_time,
        _encode("parameters", run.parameters),
        _encode("metrics", run.metrics),
        None if run.trades is None else _encode("trades", run.trades),
        None if run.equity_curve is None else _encode("equity_curve", run.equity_curve),
        _encode("coverage", coverage),
    )
    try:
        id_: UUID = await pool.fetchval(_SAVE, *values)
    except (asyncpg.UntranslatableCharacterError, asyncpg.CharacterNotInRepertoireError) as error:
        raise UsageError(f"PostgreSQL cannot keep a text of the backtest run: {error}") from error
    return id_


async def _coverage_of(pool: asyncpg.Pool | Connection, run: BacktestRun, symbols: Sequence[str]) -> RunCoverage:
    span, interval = (as_utc(run.start_time), as_utc(run.end_time)), checked_interval(run.interval)
    async with _lent(pool) as connection:
        found = {symbol: SymbolCoverage.of(await coverage_on(connection, symbol, span, interval)) for symbol in symbols}
    return RunCoverage(gaps=None if run.gaps is None else checked_gaps(run.gaps), interval=interval, symbols=found)


def _lent(pool: asyncpg.Pool | Connection) -> AbstractAsyncContextManager[Connection]:
    """A connection for several statements; one that was given stays open."""
    return pool.acquire() if isinstance(pool, asyncpg.Pool) else nullcontext(pool)


def _our_symbols(names: Sequence[str], stored: Sequence[str]) -> list[str]:
    symbols: list[str] = []
    for name in names:
        symbol: str | None = None
        with suppress(UnknownSymbol):  # a run may be of data that are not ours
            symbol = find_symbol(name, stored)
        symbols.append(symbol or name)
    return symbols


_SAVE = """
    INSERT INTO backtest_runs
        (strategy_name, symbols, start_time, end_time, parameters, metrics, trades, equity_curve, coverage)
    VALUES ($1, $2, $3, $4, $5::text::jsonb, $6::text::jsonb, $7::text::jsonb, $8::text::jsonb, $9::text::jsonb)
    RETURNING id
"""


async def list_runs(
    pool: asyncpg.Pool | Connection, strategy_name: str | None = None, *, limit: int = 100
) -> list[RunSummary]:
    """Saved runs, newest first; of one strategy, or of all.

    Rows that :func:`save_run` did not write and that cannot be read are skipped, and do not count.

    Raises:
        InvalidNumber: The limit is not between 1 and 1,000.
    """
    most = whole_number(limit)
    if most is None or not 1 <= most <= _MOST_LISTED:
        raise InvalidNumber("limit", limit, f"a whole number from 1 to {_MOST_LISTED}")
    runs: list[RunSummary] = []
    async with _lent(pool) as connection, connection.transaction(readonly=True):
        async for row in connection.cursor(_LIST, strategy_name, prefetch=most):
            with suppress(*_UNREADABLE):
                runs.append(msgspec.convert(_decoded(row), RunSummary))
            if len(runs) == most:
                break
    return runs


_LIST = f"""
    SELECT {_RUN_COLUMNS} FROM backtest_runs WHERE $1::text IS NULL OR strategy_name = $1
    ORDER BY created_at DESC, id
"""  # noqa: S608 — our own columns


async def load_run(pool: asyncpg.Pool | Connection, id_: UUID) -> SavedRun:
    """One saved run, whole.

    Raises:
        UnknownRun: There is none with this id.
        HistoryError: Another program stored the run in a form that cannot be read.
    """
    row = await pool.fetchrow(_LOAD, _uuid(id_))
    if row is None:
        raise UnknownRun(id_)
    try:
        run = msgspec.convert(_decoded(row), SavedRun)
    except _UNREADABLE as error:
        raise HistoryError(f"backtest run {id_} was not stored by save_run and cannot be read: {error}") from error
    if run.coverage is None:
        return run
    return msgspec.structs.replace(run, gaps=run.coverage.gaps, interval=run.coverage.interval)


_LOAD = f"SELECT {_RUN_COLUMNS}, trades::text, equity_curve::text FROM backtest_runs WHERE id = $1"  # noqa: S608 — the same

_UNREADABLE = (msgspec.MsgspecError, RecursionError)


def _uuid(id_: UUID | str) -> UUID:
    try:
        return UUID(str(id_))
    except ValueError:
        raise UnknownRun(id_) from None


def _check(run: BacktestRun) -> None:
    if not isinstance(run, BacktestRun):
        raise UsageError(f"save_run takes a BacktestRun, not {type(run).__name__}")
    if not _is_text(run.strategy_name):
        raise UsageError(f"a backtest run needs the name of its strategy, not {run.strategy_name!r}")
    if isinstance(run.symbols, str) or not isinstance(run.symbols, Sequence) or not all(map(_is_text, run.symbols)):
        raise UsageError(f"the symbols of a backtest run are texts, such as ('BTC/USDT',), not {run.symbols!r}")
    if not run.symbols:
        raise UsageError("a backtest run needs at least one symbol")
    if run.gaps is not None:
        checked_gaps(run.gaps)
    _check_times([run.start_time, run.end_time])
    if run.start_time >= run.end_time:
        raise UsageError(f"a backtest run needs start_time < end_time, not {run.start_time} … {run.end_time}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _check_times(times: Sequence[object]) -> None:
    if not all(isinstance(time, datetime) and time.tzinfo is not None for time in times):
        raise UsageError("the times of a backtest run need a zone, such as datetime(2026, 1, 1, tzinfo=UTC)")


_PARTS: dict[str, tuple[Any, str]] = {
    "parameters": (dict[str, Any], "an object, such as {'window': 20}"),
    "metrics": (dict[str, Any], "an object, such as {'profit': Decimal(1)}"),
    "trades": (list[dict[str, Any]], "a list of objects, such as [{'side': 'buy'}]"),
    "equity_curve": (list[EquityPoint], "a list of EquityPoint, with numbers"),
    "coverage": (RunCoverage, "a RunCoverage"),
}
"""What each part is read as, and how to say so."""


def _encode(part: str, value: object) -> str:
    """The part as JSON, from which it can be read again."""
    kind, shape = _PARTS[part]
    try:
        text = msgspec.json.encode(value, enc_hook=_plain)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"the {part} of the backtest run cannot be stored as JSON: {error}") from error
    try:
        read = msgspec.json.decode(text, type=kind)
    except _UNREADABLE as error:
        raise UsageError(f"the {part} of a backtest run must be {shape}: {error}") from error
    if part == "equity_curve":
        _check_times([point.timestamp for point in read])
    return text.decode()


def _plain(value: object) -> object:
    """What msgspec does not know: numbers of NumPy, which frames give, and times of pandas."""
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"expected a value that JSON can hold, got {type(value).__name__}")


def _decoded(row: asyncpg.Record) -> dict[str, Any]:
    values = dict(row)
    for part, (kind, _) in _PARTS.items():
        if values.get(part) is not None:
            values[part] = msgspec.json.decode(values[part], type=kind)
    return values
