"""Runs of backtests come back as they went in."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import numpy as np
import pytest

from kraken_history.backtests import (
    BacktestRun,
    EquityPoint,
    RunCoverage,
    SymbolCoverage,
    UnknownRun,
    list_runs,
    load_run,
    save_run,
)
from kraken_history.errors import HistoryError, InvalidChoice, InvalidNumber, UsageError
from kraken_history.storing.store import Store
from tests.support.examples import make_candle, make_trade

ONE_FLAVOUR = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
START = datetime(2025, 1, 1, tzinfo=UTC)
END = START + timedelta(days=30)


def make_run(**changes: Any) -> BacktestRun:
    run = BacktestRun(
        strategy_name="mean reversion",
        symbols=("BTC/USDT", "ETH/USDT"),
        start_time=START,
        end_time=END,
        parameters={"window": 20, "threshold": Decimal("1.50"), "is_short": False, "since": START},
        metrics={"sharpe": Decimal("1.2345678901234567890"), "trades": 2, "worst": None, "by_symbol": {"BTC/USDT": 1}},
        trades=[{"side": "buy", "price": Decimal("100.10"), "at": START}, {"side": "sell", "price": Decimal("1E-8")}],
        equity_curve=[EquityPoint(START, Decimal("1000.00")), EquityPoint(END, Decimal("1234.567890123456789"))],
    )
    return msgspec.structs.replace(run, **changes)


async def test_a_run_comes_back_whole(pool: asyncpg.Pool) -> None:
    run = make_run()

    saved = await load_run(pool, await save_run(pool, run))

    assert (saved.strategy_name, saved.symbols, saved.start_time, saved.end_time) == (
        run.strategy_name, run.symbols, START, END
    )  # fmt: skip
    assert saved.parameters == {
        "window": 20, "threshold": "1.50", "is_short": False, "since": "2025-01-01T00:00:00Z"
    }  # fmt: skip
    assert saved.metrics["sharpe"] == "1.2345678901234567890"
    assert saved.trades == [
        {"side": "buy", "price": "100.10", "at": "2025-01-01T00:00:00Z"},
        {"side": "sell", "price": "1E-8"},
    ]
    assert saved.equity_curve == run.equity_curve
    assert [str(point.equity) for point in saved.equity_curve or ()] == ["1000.00", "1234.567890123456789"]
    assert saved.created_at.tzinfo is not None


async def test_trades_and_equity_curve_may_be_left_out(pool: asyncpg.Pool) -> None:
    saved = await load_run(pool, await save_run(pool, make_run(trades=None, equity_curve=None)))

    assert (saved.trades, saved.equity_curve) == (None, None)


async def test_runs_are_listed_newest_first(pool: asyncpg.Pool) -> None:
    ids = [await save_run(pool, make_run(strategy_name=name)) for name in ("a", "b", "a")]

    assert [run.id for run in await list_runs(pool)] == ids[::-1]
    assert [run.id for run in await list_runs(pool, "a")] == [ids[2], ids[0]]
    assert [run.id for run in await list_runs(pool, limit=1)] == [ids[2]]
    assert await list_runs(pool, "c") == []
    assert (await list_runs(pool))[0].metrics["trades"] == 2


async def test_a_run_that_does_not_exist_is_named(pool: asyncpg.Pool) -> None:
    id_ = uuid4()

    with pytest.raises(UnknownRun, match=str(id_)) as refusal:
        await load_run(pool, id_)

    assert refusal.value.id == id_


async def test_what_is_no_id_is_a_run_that_does_not_exist(pool: asyncpg.Pool) -> None:
    with pytest.raises(UnknownRun, match="saved backtest run, got abc"):
        await load_run(pool, "abc")  # type: ignore[arg-type]


@ONE_FLAVOUR
@pytest.mark.parametrize("limit", [0, -1, 1001, "5", True])
async def test_a_limit_without_sense_is_refused(pool: asyncpg.Pool, limit: Any) -> None:
    with pytest.raises(InvalidNumber, match="from 1 to 1000") as refusal:
        await list_runs(pool, limit=limit)

    assert refusal.value.value == limit


async def test_numbers_of_numpy_are_numbers(pool: asyncpg.Pool) -> None:
    numbers = {"price": np.float64(100.1), "n": np.int64(3), "wins": [np.bool_(True)]}
    curve = [EquityPoint(START, np.float64(1000.1)), EquityPoint(END, np.int64(1001))]  # type: ignore[arg-type]

    id_ = await save_run(pool, make_run(parameters=numbers, metrics=numbers, trades=[numbers], equity_curve=curve))
    saved = await load_run(pool, id_)

    assert saved.parameters == saved.metrics == {"price": 100.1, "n": 3, "wins": [True]}
    assert saved.trades == [saved.parameters]
    assert saved.equity_curve == [EquityPoint(START, Decimal("1000.1")), EquityPoint(END, Decimal(1001))]


async def test_a_float_that_is_no_number_becomes_none(pool: asyncpg.Pool) -> None:
    id_ = await save_run(pool, make_run(metrics={"sharpe": float("nan"), "most": np.float64("inf")}))

    assert (await load_run(pool, id_)).metrics == {"sharpe": None, "most": None}


@ONE_FLAVOUR
@pytest.mark.parametrize(
    "change",
    [
        "metrics = '[1]'",
        "parameters = 'null'",
        "symbols = ARRAY['BTC/USDT', NULL]",
        "symbols = ARRAY[ARRAY['BTC/USDT']]",
    ],
)
async def test_a_row_that_somebody_else_made_hides_no_run(pool: asyncpg.Pool, change: str) -> None:
    """One such row made every program's list fail, and a reader has no right to delete it."""
    older, foreign = [await save_run(pool, make_run()) for _ in range(2)]
    await pool.execute(f"UPDATE backtest_runs SET {change} WHERE id = $1", foreign)  # noqa: S608 — from above

    assert [run.id for run in await list_runs(pool, limit=1)] == [older]
    with pytest.raises(HistoryError, match="was not stored by save_run"):
        await load_run(pool, foreign)


async def test_trades_that_cannot_be_read_leave_the_run_in_the_list(pool: asyncpg.Pool) -> None:
    id_ = await save_run(pool, make_run())
    await pool.execute("UPDATE backtest_runs SET trades = '[1]'")

    assert [run.id for run in await list_runs(pool)] == [id_]
    with pytest.raises(HistoryError, match=str(id_)):
        await load_run(pool, id_)


@ONE_FLAVOUR
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"strategy_name": " "}, "name of its strategy"),
        ({"strategy_name": None}, "name of its strategy"),
        ({"symbols": ()}, "at least one symbol"),
        ({"symbols": "BTC/USDT"}, "symbols of a backtest run are texts"),
        ({"symbols": ("BTC/USDT", None)}, "symbols of a backtest run are texts"),
        ({"start_time": "2025-01-01"}, "need a zone"),
        ({"start_time": datetime(2025, 1, 1)}, "need a zone"),  # noqa: DTZ001 — that is the point
        ({"equity_curve": [EquityPoint(datetime(2025, 1, 1), Decimal(1))]}, "need a zone"),  # noqa: DTZ001 — the same
        ({"end_time": START}, "start_time < end_time"),
        ({"parameters": {"f": object()}}, "the parameters of the backtest run cannot be stored as JSON"),
        ({"metrics": {"n": 1j}}, "the metrics of the backtest run cannot be stored as JSON"),
        ({"parameters": "x"}, "the parameters of a backtest run must be an object"),
        ({"metrics": None}, "the metrics of a backtest run must be an object"),
        ({"metrics": [1]}, "the metrics of a backtest run must be an object"),
        ({"trades": [1]}, "the trades of a backtest run must be a list of objects"),
        ({"trades": {"a": 1}}, "the trades of a backtest run must be a list of objects"),
        ({"trades": [make_candle(START)]}, "the trades of a backtest run must be a list of objects"),
        ({"equity_curve": [(START, Decimal(1))]}, "the equity_curve of a backtest run must be a list of EquityPoint"),
        ({"equity_curve": [EquityPoint(START, float("nan"))]}, "the equity_curve of a backtest run must be"),  # type: ignore[arg-type]
        ({"equity_curve": 5}, "the equity_curve of a backtest run must be a list of EquityPoint"),
        ({"trades": [{"note": "\x00"}]}, "cannot keep a text"),
        ({"strategy_name": "a\x00"}, "cannot keep a text"),
    ],
)
async def test_what_cannot_be_kept_is_refused_by_name(
    pool: asyncpg.Pool, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        await save_run(pool, make_run(**changes))

    assert await list_runs(pool) == []


async def test_times_of_other_zones_are_the_same_instants(pool: asyncpg.Pool) -> None:
    eastern = timezone(-timedelta(hours=5))
    id_ = await save_run(pool, make_run(start_time=START.astimezone(eastern)))

    assert isinstance(id_, UUID)
    assert (await load_run(pool, id_)).start_time == START


async def test_a_run_carries_the_coverage_that_it_was_computed_on(pool: asyncpg.Pool) -> None:
    """One was saved across a hole of 992 days and looked like any other."""
    hour = timedelta(hours=1)
    await Store(pool).write([make_trade(1, START), make_trade(2, START + hour), make_trade(4, START + 3 * hour)])
    run = make_run(symbols=("XBTUSDT", "NOT/OURS"), end_time=START + 4 * hour, gaps="fill")

    id_ = await save_run(pool, run)

    coverage = RunCoverage(
        gaps="pad",
        symbols={
            "BTC/USDT": SymbolCoverage(
                start=START, end=START + 4 * hour, proven_s=60, exchange_s=0, quiet_s=3540, missing_s=3 * 3600
            )
        },
    )
    [listed], loaded = await list_runs(pool), await load_run(pool, id_)
    assert (listed.coverage, loaded.coverage, loaded.gaps) == (coverage, coverage, "pad")
    assert coverage.missing_s == 3 * 3600
    stored = msgspec.json.decode(await pool.fetchval("SELECT coverage::text FROM backtest_runs"))
    assert stored == {
        "gaps": "pad",
        "interval": 1,
        "symbols": {
            "BTC/USDT": {
                "from": "2025-01-01T00:00:00Z", "to": "2025-01-01T04:00:00Z",
                "proven_s": 60.0, "exchange_s": 0.0, "quiet_s": 3540.0, "missing_s": 10800.0,
            }
        },
    }  # fmt: skip


@ONE_FLAVOUR
async def test_a_coverage_that_is_given_is_kept(pool: asyncpg.Pool) -> None:
    given = RunCoverage(
        symbols={"A/B": SymbolCoverage(start=START, end=END, proven_s=1.5, exchange_s=0, quiet_s=0, missing_s=0)}
    )

    saved = await load_run(pool, await save_run(pool, make_run(coverage=given, gaps="raise")))

    assert saved.coverage == msgspec.structs.replace(given, gaps="raise")


@ONE_FLAVOUR
async def test_a_run_can_be_saved_within_a_transaction(pool: asyncpg.Pool) -> None:
    await Store(pool).write([make_trade(1, START), make_trade(2, START + timedelta(days=1))])
    async with pool.acquire() as connection, connection.transaction():
        id_ = await save_run(connection, make_run())

    coverage = (await load_run(pool, id_)).coverage
    assert coverage is not None
    assert coverage.symbols["BTC/USDT"].missing_s == 29 * 86_400


@ONE_FLAVOUR
async def test_a_run_of_an_older_version_has_no_coverage(pool: asyncpg.Pool) -> None:
    id_ = await save_run(pool, make_run())
    await pool.execute("UPDATE backtest_runs SET coverage = NULL")

    [listed], loaded = await list_runs(pool), await load_run(pool, id_)

    assert (listed.coverage, loaded.coverage, loaded.gaps) == (None, None, None)


@ONE_FLAVOUR
async def test_a_choice_of_gaps_that_does_not_exist_is_refused(pool: asyncpg.Pool) -> None:
    with pytest.raises(InvalidChoice, match="gaps: expected one of ignore, raise, pad, fill, got 'skip'"):
        await save_run(pool, make_run(gaps="skip"))
