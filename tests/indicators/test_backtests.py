"""Runs of backtests come back as they went in."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from kraken_history.backtests import BacktestRun, EquityPoint, UnknownRun, list_runs, load_run, save_run
from kraken_history.errors import UsageError

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


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_limit_without_sense_is_refused(pool: asyncpg.Pool, limit: int) -> None:
    with pytest.raises(UsageError, match="between 1 and 1000"):
        await list_runs(pool, limit=limit)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"strategy_name": " "}, "name of its strategy"),
        ({"symbols": ()}, "at least one symbol"),
        ({"start_time": datetime(2025, 1, 1)}, "need a zone"),  # noqa: DTZ001 — that is the point
        ({"equity_curve": [EquityPoint(datetime(2025, 1, 1), Decimal(1))]}, "need a zone"),  # noqa: DTZ001 — the same
        ({"end_time": START}, "start_time < end_time"),
        ({"parameters": {"f": object()}}, "the parameters of the backtest run cannot be kept as JSON"),
        ({"metrics": {"n": 1j}}, "the metrics of the backtest run cannot be kept as JSON"),
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
