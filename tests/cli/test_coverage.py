"""``coverage``: what it says of a history with everything in it, and that its commands fill what is missing."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from kraken_history.cli.coverage_strip import cells, days_per_cell
from kraken_history.cli.missing_time import explain, lasting, percent
from kraken_history.fetching.backfill import backfill_symbol
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.limiter import LocalRateLimiter
from kraken_history.kraken.pacing import Pacing
from kraken_history.reading.kinds import KINDS
from kraken_history.records import MINUTE, TimeRange, unix_ns
from tests.cli.samples import execute, import_days, store, trade
from tests.support.command import Run
from tests.support.kraken import BTC, CountedSimulator, all_trades
from tests.support.servers import Background

REPOSITORY = Path(__file__).resolve().parents[2]
T = TypeVar("T")
DAY = timedelta(days=1)
JANUARY = datetime(2024, 1, 1, tzinfo=UTC)
POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


def reported(command: Run, *arguments: str, **environment: str) -> dict[str, Any]:
    outcome = command("coverage", "--json", *arguments, **environment)
    assert (outcome.code, outcome.err) == (0, "")
    symbols: dict[str, Any] = json.loads(outcome.out)["symbols"]
    return symbols


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_json_says_to_the_second_what_is_known_and_the_four_kinds_add_up(
    migrated_database_url: str, background: Background, command: Run
) -> None:
    """Ten days by CSV, trades two years later, one id missing, a week dropped by retention."""
    background.run(import_days(migrated_database_url, JANUARY, 10))
    background.run(store(migrated_database_url, [trade(1), trade(2, 90), trade(4, 270), trade(5, 600.5)]))
    background.run(
        execute(
            migrated_database_url,
            "INSERT INTO dropped_ranges VALUES ('candles', '{[2024-01-02 00:00+00, 2024-01-03 00:00+00)}')",
        )
    )
    told = reported(command, "--from", "2023-12-31", "--to", "2026-01-05T10:20", DATABASE_URL=migrated_database_url)[
        "BTC/USDT"
    ]

    def filled(start: str, end: str) -> dict[str, str]:
        return {"start": start, "end": end, "command": f"kraken-history backfill BTC/USDT --from {start} --to {end}"}

    assert told == {
        "from": "2023-12-31T00:00:00Z",
        "to": "2026-01-05T10:20:00Z",
        "proven_s": 60,  # 10:00; of 10:10 only the first half second, which is not a whole one
        "exchange_s": 9 * 24 * 60,
        "quiet_s": 9 * (86_400 - 24 * 60) + 5 * 60,
        "missing_s": 2 * 86_400 + 725 * 86_400 + 10 * 3600 + 4 * 60 + 600,
        "gaps": [
            filled("2023-12-31T00:00:00Z", "2024-01-01T00:00:00Z"),
            {"start": "2024-01-02T00:00:00Z", "end": "2024-01-03T00:00:00Z", "command": "kraken-history status"},
            filled("2024-01-11T00:00:00Z", "2026-01-05T10:00:00Z"),
            filled("2026-01-05T10:01:00Z", "2026-01-05T10:05:00Z"),
            filled("2026-01-05T10:10:00Z", "2026-01-05T10:20:00Z"),
        ],
    }
    assert sum(told[f"{kind}_s"] for kind in KINDS) == (at(told["to"]) - at(told["from"])).total_seconds()


@POSTGRESQL
def test_without_a_range_it_begins_with_what_is_there_and_ends_now(
    migrated_database_url: str, background: Background, command: Run
) -> None:
    background.run(store(migrated_database_url, [trade(1, 11.5), trade(2, 60)]))
    before = datetime.now(UTC)
    told = reported(command, DATABASE_URL=migrated_database_url)["BTC/USDT"]

    assert told["from"] == "2026-01-05T10:00:12Z"  # not 10:00, when the candle of the trade begins
    assert before - timedelta(seconds=2) <= at(told["to"]) <= datetime.now(UTC) + timedelta(seconds=1)
    assert sum(told[f"{kind}_s"] for kind in KINDS) == (at(told["to"]) - at(told["from"])).total_seconds()
    assert [gap["start"] for gap in told["gaps"]] == ["2026-01-05T10:01:00Z"]


@POSTGRESQL
def test_symbols_are_chosen_by_any_name_or_all_of_them(
    migrated_database_url: str, background: Background, command: Run
) -> None:
    background.run(store(migrated_database_url, [trade(1), trade(2, 60)]))
    background.run(import_days(migrated_database_url, JANUARY, 1, "ETH/USDT"))
    every = reported(command, "--all", DATABASE_URL=migrated_database_url)
    both = command("coverage", "--all", "BTC/USDT")
    unknown = command("coverage", "SOL/USDT")

    assert every.keys() == reported(command).keys() == {"BTC/USDT", "ETH/USDT"}
    assert reported(command, "XBTUSDT").keys() == {"BTC/USDT"}
    assert (both.code, both.err) == (2, "kraken-history: expected either SYMBOL or --all\n")
    assert (unknown.code, unknown.err.count("\n")) == (2, 1)


@POSTGRESQL
def test_an_end_in_the_future_is_now(migrated_database_url: str, background: Background, command: Run) -> None:
    background.run(store(migrated_database_url, [trade(1), trade(2, 60)]))
    told = reported(command, "--to", "2099-01-01", DATABASE_URL=migrated_database_url)["BTC/USDT"]
    late = command("coverage", "--from", "2099-01-01")

    assert at(told["to"]) <= datetime.now(UTC) + timedelta(seconds=1)
    assert (late.code, late.err) == (
        2,
        "kraken-history: --from: expected a time before now, got 2099-01-01T00:00:00Z\n",
    )


@POSTGRESQL
def test_any_time_can_be_asked_about(migrated_database_url: str, background: Background, command: Run) -> None:
    background.run(store(migrated_database_url, [trade(1), trade(2, 60)]))
    ancient = reported(command, "--from", "0001-01-01", "--to", "2026-01-05T10:01", DATABASE_URL=migrated_database_url)
    before = reported(command, "--to", "2020-01-01")

    assert ancient["BTC/USDT"]["from"] == "1970-01-01T00:00:00Z"
    assert ancient["BTC/USDT"]["proven_s"] == 60
    assert before["BTC/USDT"] == {
        "from": "2020-01-01T00:00:00Z",
        "to": "2020-01-01T00:00:00Z",
        **{f"{kind}_s": 0 for kind in KINDS},
        "gaps": [],
    }
    assert command("coverage", "--to", "2020-01-01").code == 0
    assert reported(command, "--days", "2", "--to", "2026-01-06")["BTC/USDT"]["from"] == "2026-01-04T00:00:00Z"


@POSTGRESQL
def test_several_gaps_of_a_symbol_are_to_be_filled_one_by_one(
    migrated_database_url: str, background: Background, command: Run
) -> None:
    """Pasted together, the commands replaced each other: only the last gap was filled."""
    background.run(store(migrated_database_url, [trade(1), trade(2, 60)]))
    several = command("coverage", "--from", "2026-01-05T09:00", DATABASE_URL=migrated_database_url)
    one = command("coverage", "--from", "2026-01-05T10:00")

    assert several.out.count("one after the other") == 1
    assert "one after the other" not in one.out


@POSTGRESQL
def test_nothing_stored_is_said(migrated_database_url: str, command: Run) -> None:
    outcome = command("coverage", "--json", DATABASE_URL=migrated_database_url)

    assert (outcome.code, outcome.out) == (0, '{"symbols":{}}\n')
    assert outcome.err.startswith("nothing is stored yet")


@POSTGRESQL
def test_in_a_pipe_the_strip_is_plain_text_of_80_columns(
    migrated_database_url: str, background: Background, command: Run
) -> None:
    background.run(import_days(migrated_database_url, JANUARY, 10))
    background.run(store(migrated_database_url, [trade(1), trade(2, 2 * 86_400)]))
    outcome = command("coverage", "--to", "2026-01-07T10:00", DATABASE_URL=migrated_database_url)
    lines = outcome.out.splitlines()

    assert (outcome.code, outcome.err) == (0, "")
    assert lines == [
        "BTC/USDT  2024-01-01 00:00Z to 2026-01-07 10:00Z, 10 days per character",
        "  # proven  + exchange  . quiet  % partly missing  x missing",
        "  +" + 72 * "x" + "%",
        "  proven               1 min    0.01 %",
        "  exchange               4 h    0.02 %",
        "  quiet            11 d 19 h    1.60 %",
        "  missing         725 d 10 h   98.37 %",
        "  2024-01-11 00:00:00Z to 2026-01-05 10:00:00Z, 725 d 10 h:",
        "      kraken-history backfill BTC/USDT --from 2024-01-11T00:00:00Z --to 2026-01-05T10:00:00Z",
    ]
    assert all(len(line) <= 80 for line in lines[:-1])


def test_a_cell_shows_what_is_missing_first_and_the_last_moments_do_not_count() -> None:
    def day(**seconds: int) -> dict[Any, int]:
        return {**dict.fromkeys(KINDS, 0), **seconds}

    days = {JANUARY + n * DAY: each for n, each in enumerate([
        day(proven=80_000, quiet=6_400), day(exchange=60, quiet=86_340), day(quiet=86_400), day(missing=86_400),
        day(proven=86_399, missing=1), day(proven=3_600, missing=20),
    ])}  # fmt: skip

    assert cells(days, 1) == "#+.x%%"
    assert cells(days, 1, unsettled_s=20) == "#+.x%#"
    assert cells(days, 2) == "#%%"
    assert [days_per_cell(n, 78) for n in (1, 78, 79, 3_650)] == [1, 1, 2, 47]


def test_each_missing_range_has_its_reason() -> None:
    now = JANUARY + DAY
    old, gone = TimeRange(JANUARY - 2 * DAY, JANUARY - DAY), TimeRange(JANUARY - DAY, JANUARY)
    edge = TimeRange(now - 5 * MINUTE, now)
    gaps = explain("AAPLx/USD", [old, gone, edge], [gone], now=now)
    (long_edge,) = explain("AAPLx/USD", [TimeRange(now - 11 * MINUTE, now)], [], now=now)

    minute = TimeRange(JANUARY - 3 * DAY, JANUARY - 3 * DAY + MINUTE)
    (unreachable,) = explain("AAPLx/USD", [minute], [], [minute.start + timedelta(seconds=7)], now=now)
    (wide,) = explain("AAPLx/USD", [old], [], [old.start + timedelta(seconds=7)], now=now)

    assert [gap.why for gap in gaps] == ["missing", "dropped", "unsettled"]
    assert (unreachable.why, unreachable.command) == ("unreachable", "kraken-history status")
    assert wide.why == "missing"
    assert [gap.command for gap in gaps[1:]] == ["kraken-history status"] * 2
    assert long_edge.why == "missing"
    assert long_edge.command.startswith("kraken-history backfill AAPLx/USD --from 2024-01-01T23:49:00Z")


def test_durations_and_shares_are_short_and_hide_nothing() -> None:
    seconds = (0, 1, 59, 60, 61, 3_600, 3_661, 86_400, 90_000, 992 * 86_400)

    assert [lasting(each) for each in seconds] == [
        "0", "1 s", "59 s", "1 min", "1 min 1 s", "1 h", "1 h 1 min", "1 d", "1 d 1 h", "992 d",
    ]  # fmt: skip
    assert [percent(*each) for each in ((0, 9), (9, 9), (1, 10**9), (10**9 - 1, 10**9), (1, 3))] == [
        "0 %", "100 %", "0.01 %", "99.99 %", "33.33 %",
    ]  # fmt: skip


# The commands


@pytest.fixture
def kraken(background: Background) -> Iterator[CountedSimulator]:
    """3,000 trades over six hours up to now."""
    kraken = CountedSimulator(("BTC/USDT",), history=3_000)
    background.run(kraken.start())
    yield kraken
    background.run(kraken.stop())


@pytest.fixture
def environment(migrated_database_url: str, redis_url: str, kraken: CountedSimulator) -> dict[str, str]:
    return {"DATABASE_URL": migrated_database_url, "REDIS_URL": redis_url, "KRAKEN_REST_URL": kraken.rest_url}


@pytest.fixture
def worker(environment: dict[str, str], tmp_path: Path) -> Iterator[None]:
    """A worker that fills no gaps of BTC/USDT by itself."""
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "arq", "jobs.worker.WorkerSettings"],
            cwd=REPOSITORY,
            env={**os.environ, **environment, "SYMBOLS": "XRP/BTC", "REST_CALL_SPACING_S": "0.05", "METRICS_PORT": ""},
            stdout=log,
            stderr=log,
        )
        yield
        process.kill()
        process.wait()


def test_each_command_fills_its_gap(
    command: Run, environment: dict[str, str], worker: None, background: Background, kraken: CountedSimulator
) -> None:
    """Ten days by CSV two years ago, then nothing, then a stretch that a backfill fetched, then nothing until now."""
    background.run(import_days(environment["DATABASE_URL"], JANUARY, 10))
    # As if asked a moment ago: the worker would fetch the exchange's newest minutes, which cover the last gap.
    asked = "INSERT INTO data_sync_status (symbol, data_type) VALUES ('BTC/USDT', 'candles_1440m')"
    background.run(execute(environment["DATABASE_URL"], asked))
    start = datetime.now(UTC) - timedelta(hours=4)
    # A page of 1,000 trades spans two hours. One is asked for, so that the next page, which ends now, is not fetched.
    stretch = ("--from", f"{start:%Y-%m-%dT%H:%M:%SZ}", "--to", f"{start + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}")
    assert command("backfill", "BTC/USDT", *stretch, "--follow", **environment).code == 0
    before = reported(command)["BTC/USDT"]
    runs = [
        command(*shlex.split(gap["command"])[1:], "--follow").code
        for gap in before["gaps"]
        if "backfill" in gap["command"]
    ]
    settled = at(before["to"]) - timedelta(seconds=10)  # of the last five seconds a page proves nothing
    after = reported(command, "--to", settled.isoformat())["BTC/USDT"]

    assert before["missing_s"] > 600 * 86_400
    assert runs == [0, 0]
    assert after["gaps"] == []
    assert after["missing_s"] == 0
    assert after["exchange_s"] == before["exchange_s"]


async def fetch_history(kraken: CountedSimulator, run: Callable[[KrakenRest], Awaitable[T]]) -> T:
    async with KrakenRest(kraken.rest_url, LocalRateLimiter(Pacing(spacing_s=0.001, total_spacing_s=0.001))) as rest:
        return await run(rest)


def test_what_the_command_of_a_hole_requests_fills_the_hole(
    command: Run, environment: dict[str, str], background: Background, kraken: CountedSimulator
) -> None:
    """Without a worker, which would heal it by itself: the same backfill, in this process."""
    url = environment["DATABASE_URL"]
    trades = background.run(fetch_history(kraken, lambda rest: all_trades(rest, BTC)))
    background.run(store(url, [trade for n, trade in enumerate(trades) if n not in range(1_000, 1_040)]))
    (hole, *_) = reported(command, **environment)["BTC/USDT"]["gaps"]
    _, _, symbol, _, start, _, end = shlex.split(hole["command"])

    async def fill(rest: KrakenRest) -> int:
        async with asyncpg.create_pool(url, min_size=1, max_size=4) as pool:
            return await backfill_symbol(pool, symbol, unix_ns(at(start)), end=at(end), rest=rest)

    fetched = background.run(fetch_history(kraken, fill))
    after = reported(command, "--to", end)["BTC/USDT"]

    assert fetched == 40
    assert (after["gaps"], after["missing_s"]) == ([], 0)
