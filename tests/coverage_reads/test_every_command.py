"""What every command that reads says about a hole, a quiet, a dropped and an exchange-only stretch."""

import json
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer

from kraken_history import BacktestRun, HistoricalDataProvider
from kraken_history.cli.app import app
from kraken_history.cli.instants import instant
from kraken_history.database.connections import create_pool
from kraken_history.records import TimeRange
from tests.coverage_reads.stretches import MISSING_CANDLES, STRETCHES, SYMBOL, WHOLE, store_stretches
from tests.support.command import Run
from tests.support.servers import Background
from tests.support.services import Service
from tests.support.waiting import until_now

WALKED = {
    "candles",  # as a command of records, in test_every_read.py
    "export",  # likewise
    "coverage",
    "runs",
    "status",
    "verify",
    "replay",
}
READS_NO_HISTORY = {
    *("up", "demo", "health", "env", "psql", "migrate", "upgrade", "web"),  # the servers and services themselves
    *("backfill", "fetch-ohlc", "fill-gaps", "import-csv", "refresh", "remove-trade"),  # write it
    *("backup", "restore"),  # all of the database, as it is
    *("archive", "restore-archive"),  # whole months, with what is proven of them
    *("dead-letters", "indicators"),  # not of trades or candles
}
SECONDS = {kind: int(span.duration.total_seconds()) for kind, span in STRETCHES.items()}
KIND_OF = {"proven": "proven", "quiet": "quiet", "hole": "missing", "exchange": "exchange", "dropped": "missing"}
BACKFILL = f"kraken-history backfill {SYMBOL} --from {{}} --to {{}}"


@pytest.fixture
def filled(
    migrated_database_url: str,
    redis_url: str,
    background: Background,
    command: Run,  # sets its environment, so it comes before ours
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> str:
    async def fill() -> None:
        async with await create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
            await store_stretches(pool)

    background.run(fill())
    monkeypatch.setenv("DATABASE_URL", migrated_database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.chdir(tmp_path)
    return migrated_database_url


def typed(span: TimeRange) -> tuple[str, ...]:
    return (SYMBOL, "--from", span.start.isoformat(), "--to", span.end.isoformat())


def told(command: Run, *arguments: str) -> Any:
    outcome = command(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_every_command_is_walked_or_reads_no_history() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]

    assert set(commands) == WALKED | READS_NO_HISTORY


def test_coverage_tells_the_kind_of_each_stretch(filled: str, command: Run) -> None:
    for kind, span in STRETCHES.items():
        found = told(command, "coverage", *typed(span))["symbols"][SYMBOL]

        expected = dict.fromkeys(("proven_s", "exchange_s", "quiet_s", "missing_s"), 0)
        expected[f"{KIND_OF[kind]}_s"] = SECONDS[kind]
        assert {name: found[name] for name in expected} == expected, kind
        assert len(found["gaps"]) == (KIND_OF[kind] == "missing"), kind


def test_coverage_of_all_adds_up_and_names_what_fills_each_gap(filled: str, command: Run) -> None:
    found = told(command, "coverage", *typed(WHOLE))["symbols"][SYMBOL]
    shown = command("coverage", *typed(WHOLE)).out

    assert found["missing_s"] == SECONDS["hole"] + SECONDS["dropped"]
    assert (found["exchange_s"], found["quiet_s"]) == (SECONDS["exchange"], SECONDS["quiet"])
    assert (
        sum(found[f"{kind}_s"] for kind in ("proven", "exchange", "quiet", "missing")) == WHOLE.duration.total_seconds()
    )
    hole, dropped = found["gaps"]
    assert [(gap["start"], gap["end"]) for gap in found["gaps"]] == [
        (instant(each.start), instant(each.end)) for each in MISSING_CANDLES
    ]
    assert hole["command"] == BACKFILL.format(hole["start"], hole["end"])
    assert "backfill" not in dropped["command"]
    assert hole["command"] in shown
    assert "dropped by retention" in shown


def test_status_tells_missing_ids_missing_time_and_what_was_dropped(filled: str, command: Run) -> None:
    found = told(command, "status")
    shown = command("status").out

    symbol = found["symbols"][SYMBOL]
    assert (symbol["holes"], symbol["missing"]) == (
        2,
        18,
    )  # the hole, and the exchange's stretch, lack nine trades each
    assert symbol["missing_s"] == SECONDS["hole"] + SECONDS["dropped"]
    dropped = [{"start": instant(STRETCHES["dropped"].start), "end": instant(STRETCHES["dropped"].end)}]
    assert found["dropped"] == {"candles": dropped, "trades": dropped}
    assert "retention dropped trades before" in shown
    assert "21 min" in shown


def has_decided(replay: Service) -> bool:
    return "listening" in replay.output or not replay.is_running()


def test_a_replay_refuses_each_stretch_without_its_trades(filled: str, tmp_path: Path) -> None:
    refused = []
    for kind, span in STRETCHES.items():
        options = ["--as-kraken", "--port", "0", *typed(span), "--speed", "max"]
        log = tmp_path / f"{kind}.log"
        with Service(["-m", "kraken_history", "replay", *options], log, {"DATABASE_URL": filled}) as replay:
            until_now(partial(has_decided, replay))
            refused += [] if "listening" in replay.output else [kind]

    assert refused == ["hole", "exchange", "dropped"]


def test_verify_finds_nothing_wrong_with_what_is_known_to_be_missing(filled: str, command: Run) -> None:
    found = told(command, "verify")

    assert (found["ok"], found["differences"]) == (True, [])
    assert found["checked"]["trades"] == 82
    for kind, span in STRETCHES.items():
        assert told(command, "verify", *typed(span))["ok"], kind


def test_runs_show_the_coverage_that_a_run_stood_on(filled: str, background: Background, command: Run) -> None:
    async def save(span: TimeRange) -> str:
        run = BacktestRun(
            strategy_name="walk", symbols=(SYMBOL,), start_time=span.start, end_time=span.end, parameters={},
            metrics={"profit": 1.0}, gaps="ignore",
        )  # fmt: skip
        async with HistoricalDataProvider(filled, 1, 1) as history:
            return str(await history.save_run(run))

    ids = {kind: background.run(save(span)) for kind, span in STRETCHES.items()}
    listed = {run["id"]: run for run in told(command, "runs", "list")}
    for kind, id_ in ids.items():
        missing_s = SECONDS[kind] if KIND_OF[kind] == "missing" else 0
        shown = command("runs", "show", id_).out

        assert listed[id_]["coverage"]["symbols"][SYMBOL]["missing_s"] == missing_s, kind
        assert told(command, "runs", "show", id_)["coverage"]["symbols"][SYMBOL]["missing_s"] == missing_s
        assert ("missing" in shown) == bool(missing_s), shown
    compared = command("runs", "compare", ids["proven"], ids["hole"]).out
    assert str(timedelta(seconds=SECONDS["hole"]).seconds // 60) in compared
