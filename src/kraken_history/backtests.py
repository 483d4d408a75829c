"""Runs of backtests: saved with what went in and what came out, listed, and loaded again.

Parameters and metrics are objects; what a strategy puts into them, and into trades and points of the equity curve,
is its own. Decimals are kept as strings and times as ISO 8601, so that nothing is rounded; they come back as such.
A float that is not a number becomes ``None``.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct

from kraken_history.errors import UsageError

Json = Mapping[str, Any]
"""A JSON object: strings, numbers, Decimals, aware times, UUIDs, lists, further objects."""

_MOST_LISTED = 1_000


class UnknownRun(UsageError):
    """A run that is not stored."""

    def __init__(self, id_: UUID) -> None:
        super().__init__(f"there is no backtest run {id_}: list_runs tells which there are")
        self.id = id_


class EquityPoint(Struct, frozen=True):
    """What an account was worth at one time."""

    timestamp: datetime
    equity: Decimal


class BacktestRun(Struct, frozen=True, kw_only=True):
    """A run to be saved.

    Attributes:
        start_time, end_time: The range that was tested, ``[start_time, end_time)``.
        trades: What the strategy did, in its own words; ``None`` where that is not kept.
    """

    strategy_name: str
    symbols: tuple[str, ...]
    start_time: datetime
    end_time: datetime
    parameters: Json
    metrics: Json
    trades: Sequence[Json] | None = None
    equity_curve: Sequence[EquityPoint] | None = None


class RunSummary(Struct, frozen=True, kw_only=True):
    """A saved run as it is listed: without its trades and its equity curve."""

    id: UUID
    strategy_name: str
    symbols: tuple[str, ...]
    start_time: datetime
    end_time: datetime
    parameters: dict[str, Any]
    metrics: dict[str, Any]
    created_at: datetime


class SavedRun(BacktestRun, frozen=True, kw_only=True):
    """A run with its identity."""

    id: UUID
    created_at: datetime


async def save_run(pool: asyncpg.Pool, run: BacktestRun) -> UUID:
    """Save a run and return its id.

    Raises:
        UsageError: A part of it cannot be kept; names the part.
    """
    _check(run)
    values = (
        run.strategy_name,
        list(run.symbols),
        run.start_time,
        run.end_time,
        _encode("parameters", run.parameters),
        _encode("metrics", run.metrics),
        None if run.trades is None else _encode("trades", run.trades),
        None if run.equity_curve is None else _encode("equity_curve", run.equity_curve),
    )
    try:
        id_: UUID = await pool.fetchval(_SAVE, *values)
    except (asyncpg.UntranslatableCharacterError, asyncpg.CharacterNotInRepertoireError) as error:
        raise UsageError(f"PostgreSQL cannot keep a text of the backtest run: {error}") from error
    return id_


_SAVE = """
    INSERT INTO backtest_runs
        (strategy_name, symbols, start_time, end_time, parameters, metrics, trades, equity_curve)
    VALUES ($1, $2, $3, $4, $5::text::jsonb, $6::text::jsonb, $7::text::jsonb, $8::text::jsonb)
    RETURNING id
"""


async def list_runs(pool: asyncpg.Pool, strategy_name: str | None = None, *, limit: int = 100) -> list[RunSummary]:
    """Saved runs, newest first; of one strategy, or of all.

    Raises:
        UsageError: The limit is not between 1 and 1,000.
    """
    if not 1 <= limit <= _MOST_LISTED:
        raise UsageError(f"between 1 and {_MOST_LISTED} runs can be listed at once, not {limit}")
    rows = await pool.fetch(
        """
        SELECT id, strategy_name, symbols, start_time, end_time, parameters::text, metrics::text, created_at
        FROM backtest_runs WHERE $1::text IS NULL OR strategy_name = $1
        ORDER BY created_at DESC, id LIMIT $2
        """,
        strategy_name,
        limit,
    )
    return [msgspec.convert(_decoded(row), RunSummary) for row in rows]


async def load_run(pool: asyncpg.Pool, id_: UUID) -> SavedRun:
    """One saved run, whole.

    Raises:
        UnknownRun: There is none with this id.
    """
    row = await pool.fetchrow(
        """
        SELECT id, strategy_name, symbols, start_time, end_time, parameters::text, metrics::text, trades::text,
               equity_curve::text, created_at
        FROM backtest_runs WHERE id = $1
        """,
        id_,
    )
    if row is None:
        raise UnknownRun(id_)
    return msgspec.convert(_decoded(row), SavedRun)


def _check(run: BacktestRun) -> None:
    if not run.strategy_name.strip():
        raise UsageError("a backtest run needs the name of its strategy")
    if not run.symbols:
        raise UsageError("a backtest run needs at least one symbol")
    times = [run.start_time, run.end_time, *(point.timestamp for point in run.equity_curve or ())]
    if any(time.tzinfo is None for time in times):
        raise UsageError("the times of a backtest run need a zone, such as datetime(2026, 1, 1, tzinfo=UTC)")
    if run.start_time >= run.end_time:
        raise UsageError(f"a backtest run needs start_time < end_time, not {run.start_time} … {run.end_time}")


def _encode(part: str, value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"the {part} of the backtest run cannot be kept as JSON: {error}") from error


def _decoded(row: asyncpg.Record) -> dict[str, Any]:
    values = dict(row)
    for name in ("parameters", "metrics", "trades", "equity_curve"):
        if values.get(name) is not None:
            values[name] = msgspec.json.decode(values[name])
    return values
