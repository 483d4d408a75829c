"""Saved runs are listed, shown and compared, by ids or the beginnings of ids."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from kraken_history.backtests import BacktestRun, EquityPoint, save_run
from kraken_history.cli.runs import flat
from tests.support.command import Run
from tests.support.servers import Background

START = datetime(2026, 1, 1, tzinfo=UTC)
POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
IDS = [UUID(f"{beginning}-0000-4000-8000-000000000000") for beginning in ("0b9f3c21", "0b9f77ac", "5d000000")]


@pytest.fixture
def saved(migrated_database_url: str, background: Background) -> str:
    """Three runs, of which two have ids that begin alike."""

    async def save() -> None:
        connection = await asyncpg.connect(migrated_database_url)
        for n, id_ in enumerate(IDS):
            run = BacktestRun(
                strategy_name="crossing" if n < 2 else "mean reversion",
                symbols=("BTC/USDT", "ETH/USDT"),
                start_time=START,
                end_time=START + timedelta(days=31),
                parameters={"fast": 5 + n, "slow": 50, "fees": {"taker": Decimal("0.0026")}},
                metrics={"profit": Decimal("28663.790000000000000001") + n, "trades": 7, "sharpe": 1.25 / (n + 1),
                         "drawdown": 0.1} | ({"note": "late"} if n == 1 else {}),
                trades=[{"side": "buy"}] if n == 0 else None,
                equity_curve=[EquityPoint(START, Decimal(1))] if n == 0 else None,
            )  # fmt: skip
            random_id = await save_run(connection, run)
            moment = START + timedelta(days=40 + n)
            await connection.execute(
                "UPDATE backtest_runs SET id = $1, created_at = $2 WHERE id = $3", id_, moment, random_id
            )
        await connection.close()

    background.run(save())
    return migrated_database_url


def test_runs_are_listed_newest_first(saved: str, command: Run) -> None:
    outcome = command("runs", "--json", DATABASE_URL=saved)
    listed = command("runs", "list", "--strategy", "crossing", "--json")
    table = command("runs")

    runs = json.loads(outcome.out)
    assert [run["id"] for run in runs] == [str(id_) for id_ in reversed(IDS)]
    assert runs[0]["parameters"] == {"fast": 7, "slow": 50, "fees": {"taker": "0.0026"}}
    assert [run["id"] for run in json.loads(listed.out)] == [str(id_) for id_ in reversed(IDS[:2])]
    assert "0b9f3c21" in table.out
    assert "profit 28663.79" in table.out
    assert "and 1 more" in table.out


def test_one_run_is_shown_by_the_beginning_of_its_id(saved: str, command: Run) -> None:
    shown = command("runs", "show", "0B9F3", DATABASE_URL=saved)
    whole = command("runs", "show", str(IDS[0]), "--json")

    assert shown.code == whole.code == 0
    for words in (
        str(IDS[0]),
        "crossing",
        "BTC/USDT ETH/USDT",
        "2026-02-01T00:00:00Z",
        "parameter fast",
        "metric sharpe",
    ):
        assert words in shown.out
    run = json.loads(whole.out)
    assert run["metrics"]["profit"] == "28663.790000000000000001"
    assert run["trades"] == [{"side": "buy"}]


def test_a_run_shows_the_coverage_that_it_was_computed_on(saved: str, background: Background, command: Run) -> None:
    coverage = {"gaps": "ignore", "interval": 60, "symbols": {"BTC/USDT": {
        "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z",
        "proven_s": 86400, "exchange_s": 3600, "quiet_s": 0, "missing_s": 2588400,
    }}}  # fmt: skip

    async def add() -> None:
        connection = await asyncpg.connect(saved)
        await connection.execute(
            "UPDATE backtest_runs SET coverage = $1::text::jsonb WHERE id = $2", json.dumps(coverage), IDS[0]
        )
        await connection.close()

    background.run(add())

    shown = command("runs", "show", "0b9f3", DATABASE_URL=saved)
    listed = command("runs", "list", "--json", DATABASE_URL=saved)
    table = command("runs")

    assert table.out.count("missing 29 d 23 h") == 1
    assert "proven 1 d, exchange 1 h, missing 29 d 23 h (gaps=ignore, at 60 min)" in " ".join(shown.out.split())
    assert json.loads(listed.out)[2]["coverage"]["symbols"]["BTC/USDT"]["missing_s"] == 2588400


def test_runs_are_compared_side_by_side_and_what_differs_is_marked(saved: str, command: Run) -> None:
    outcome = command("runs", "compare", *(str(id_) for id_ in IDS), DATABASE_URL=saved)
    as_json = command("runs", "compare", "0b9f3", "5d", "--json")

    names = {line.partition("  ")[0].strip() for line in outcome.out.splitlines()}
    assert {"strategy *", "symbols", "parameter fast *", "parameter slow", "metric profit *", "metric trades"} <= names
    assert "metric note *" in names
    assert [run["id"] for run in json.loads(as_json.out)] == [str(IDS[0]), str(IDS[2])]
    assert "trades" not in json.loads(as_json.out)[0]


@POSTGRESQL
@pytest.mark.parametrize(
    "arguments", [["runs"], ["runs", "show", "5d"], ["runs", "compare", "0b9f3", "0b9f7", "5d", "0b9f3"]]
)
def test_tables_fit_into_eighty_columns(
    saved: str, command: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")

    outcome = command(*arguments, DATABASE_URL=saved)

    assert outcome.code == 0
    assert max(map(len, outcome.out.splitlines())) <= 80


@POSTGRESQL
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "77"], "expected the id of a saved run, got '77': `kraken-history runs` lists them"),
        (["show", ""], "expected the id of a saved run"),
        (["show", "0b9f"], "the beginning of several ids, such as 0b9f"),
        (["show", "%"], "expected the id of a saved run, got '%'"),
        (["compare", "5d"], "expected 2 to 4 ids to compare, got 1"),
        (["compare", *["5d"] * 5], "expected 2 to 4 ids to compare, got 5"),
        (["nonsense"], "No such command"),
    ],
)
def test_a_wrong_id_is_one_line(saved: str, command: Run, arguments: list[str], words: str) -> None:
    outcome = command("runs", *arguments, DATABASE_URL=saved)

    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert words in outcome.err


@POSTGRESQL
def test_without_a_saved_run_the_list_says_so(migrated_database_url: str, command: Run) -> None:
    outcome = command("runs", DATABASE_URL=migrated_database_url)
    as_json = command("runs", "--json")

    assert (outcome.code, outcome.out, outcome.err) == (0, "", "no run is saved\n")
    assert json.loads(as_json.out) == []


@pytest.mark.parametrize(
    ("values", "symbols", "expected"),
    [
        ({"profit": 1}, ("BTC/USDT",), {"profit": 1}),
        ({"BTC/USDT": {"profit": 1, "fees": {"paid": 2}}}, ("BTC/USDT",), {"profit": 1, "fees paid": 2}),
        ({"A/B": {"won": 1}, "C/D": {"won": 2}}, ("A/B", "C/D"), {"A/B won": 1, "C/D won": 2}),
        ({"empty": {}, "list": [{"a": 1}]}, (), {"empty": {}, "list": [{"a": 1}]}),
    ],
)
def test_objects_in_metrics_are_shown_value_by_value(
    values: dict[str, Any], symbols: tuple[str, ...], expected: dict[str, Any]
) -> None:
    assert flat(values, symbols) == expected
