"""The command, and what it shows."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from rich.console import Console

from kraken_history.cli.backfill import FUTURE
from kraken_history.cli.backfill_progress import Pace, describe, part_done, progress_bar
from kraken_history.cli.missing_time import rough
from kraken_history.cli.worker_notice import NO_WORKER
from kraken_history.fetching.backfill_targets import Backfill
from kraken_history.records import unix_ns
from tests.support.command import Run
from tests.support.kraken import CountedSimulator, assert_equals_truth
from tests.support.servers import Background

REPOSITORY = Path(__file__).resolve().parents[2]
SYMBOL = "BTC/USDT"
START = datetime(2026, 1, 1, tzinfo=UTC)
POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


@pytest.fixture
def kraken(background: Background) -> Iterator[CountedSimulator]:
    """3,000 trades, in a thread of its own: the command has a loop of its own too."""
    kraken = CountedSimulator((SYMBOL,), history=3_000)
    background.run(kraken.start())
    yield kraken
    background.run(kraken.stop())


@pytest.fixture
def environment(migrated_database_url: str, redis_url: str, kraken: CountedSimulator) -> dict[str, str]:
    return {"DATABASE_URL": migrated_database_url, "REDIS_URL": redis_url, "KRAKEN_REST_URL": kraken.rest_url}


def ask(database_url: str, question: Callable[[asyncpg.Pool], Coroutine[Any, Any, object]]) -> object:
    async def answer() -> object:
        async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
            return await question(pool)

    return asyncio.run(answer())


@pytest.fixture
def worker(environment: dict[str, str], tmp_path: Path) -> Iterator[None]:
    """A worker process."""
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


# The command


@POSTGRESQL
def test_a_backfill_is_followed_to_its_end(
    command: Run, environment: dict[str, str], worker: None, kraken: CountedSimulator
) -> None:
    outcome = command("backfill", "XBTUSDT", "--follow", **environment)

    assert (outcome.code, outcome.out) == (0, "")
    assert "requested BTC/USDT from the beginning to " in outcome.err
    assert "the backfill of BTC/USDT is done; 3,000 new trades in " in outcome.err
    ask(environment["DATABASE_URL"], lambda pool: assert_equals_truth(pool, kraken))

    (shown,) = json.loads(command("backfill", "--status", "--json").out)
    assert (shown["symbol"], shown["state"], shown["trades"]) == (SYMBOL, "done", 3_000)


@POSTGRESQL
def test_without_a_worker_it_says_that_nothing_will_happen(command: Run, environment: dict[str, str]) -> None:
    outcome = command("backfill", SYMBOL, "--from", "2025-01-01", "--to", "2025-02-01T12:00", **environment)

    assert outcome.code == 0
    assert outcome.err == f"requested {SYMBOL} from 2025-01-01T00:00:00Z to 2025-02-01T12:00:00Z\n{NO_WORKER}"


@POSTGRESQL
def test_following_a_running_backfill_leaves_its_target_as_it_is(
    command: Run, environment: dict[str, str], kraken: CountedSimulator
) -> None:
    """``--follow`` once replaced the target by "from the beginning"."""
    command("backfill", SYMBOL, "--from", "2025-01-01", "--to", "2025-02-01", **environment)
    before = json.loads(command("backfill", "--status", "--json").out)
    calls = len(kraken.calls)

    async def end_it() -> None:
        async with asyncpg.create_pool(environment["DATABASE_URL"], min_size=1, max_size=1) as pool:
            await asyncio.sleep(1)
            await pool.execute("UPDATE backfills SET state = 'cancelled'")

    ending = threading.Thread(target=lambda: asyncio.run(end_it()))
    ending.start()
    outcome = command("backfill", "xbtusdt", "--follow", **environment)
    ending.join()

    after = json.loads(command("backfill", "--status", "--json").out)
    shown = "following the running backfill of BTC/USDT from 2025-01-01T00:00:00Z to 2025-02-01T00:00:00Z"
    assert shown in outcome.err
    assert "the backfill of BTC/USDT is cancelled" in outcome.err
    assert len(kraken.calls) == calls
    for field in ("target_start", "target_end", "created_at", "next_since"):
        assert after[0][field] == before[0][field]


@POSTGRESQL
def test_backfills_are_paused_resumed_cancelled_and_shown(command: Run, environment: dict[str, str]) -> None:
    def state() -> str:
        shown = json.loads(command("backfill", "--status", SYMBOL, "--json", **environment).out)
        return str(shown[0]["state"])

    assert "there is no backfill" in command("backfill", "--status", **environment).err
    command("backfill", SYMBOL, "--from", "2025-01-01")
    assert state() == "running"
    assert "paused BTC/USDT, which has reached 2025-01-01T00:00:00Z" in command("backfill", "--pause").err
    assert state() == "paused"
    assert "resumed BTC/USDT" in command("backfill", "--resume", "XBTUSDT").err
    assert state() == "running"
    assert command("backfill", "--cancel", SYMBOL).code == 0
    assert state() == "cancelled"
    assert "cancelled" in command("backfill", "--status").out
    assert command("backfill", "--cancel").code == 0
    nothing = command("backfill", "--cancel", SYMBOL)
    assert (nothing.code, nothing.err) == (1, f"there is no backfill of {SYMBOL} to cancel\n")


@POSTGRESQL
def test_a_symbol_that_kraken_does_not_list_is_one_line(command: Run, environment: dict[str, str]) -> None:
    outcome = command("backfill", "BTC/NOPE", **environment)

    assert (outcome.code, outcome.out) == (2, "")
    assert (
        outcome.err
        == "kraken-history: unknown symbol 'BTC/NOPE': Kraken lists no such pair; write BASE/QUOTE, as in BTC/USDT\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected a symbol"),
        ([SYMBOL, "--status", "--pause"], "one of --status"),
        ([SYMBOL, "--pause", "--from", "2025-01-01"], "apply to a new backfill"),
        ([SYMBOL, "--from", "soon"], "got 'soon'"),
        (
            [SYMBOL, "--to", "2025-13-01"],
            "--to: expected a time such as 2026-01-31, 2026-01-31T12:30Z, today or yesterday, got '2025-13-01'",
        ),
    ],
)
def test_bad_input_is_one_line(command: Run, arguments: list[str], words: str) -> None:
    outcome = command("backfill", *arguments)

    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert words in outcome.err


@POSTGRESQL
@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        ("2025-02-01", "2025-01-01", "--from 2025-02-01T00:00:00Z must be before --to 2025-01-01T00:00:00Z"),
        ("2999-01-01", "2999-02-01", "start (2999-01-01 00:00:00Z) must not be in the future"),
        ("2999-02-01", "2999-01-01", "--from 2999-02-01T00:00:00Z must be before --to"),
        ("2999-01-01", "2025-01-01", "--from 2999-01-01T00:00:00Z must be before --to"),
    ],
)
def test_a_target_that_cannot_be_is_one_line(
    command: Run, environment: dict[str, str], start: str, end: str, words: str
) -> None:
    outcome = command("backfill", SYMBOL, "--from", start, "--to", end, **environment)

    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert words in outcome.err
    assert "there is no backfill" in command("backfill", "--status").err


@POSTGRESQL
def test_an_end_in_the_future_is_now_and_it_says_so(command: Run, environment: dict[str, str]) -> None:
    outcome = command("backfill", SYMBOL, "--from", "2025-01-01", "--to", "2999-01-01", **environment)

    assert outcome.code == 0
    assert outcome.err.startswith(f"requested {SYMBOL} from 2025-01-01T00:00:00Z to 20")
    assert outcome.err.endswith(f"\n{FUTURE}{NO_WORKER}")


@POSTGRESQL
def test_an_end_before_the_pair_existed_is_a_backfill_without_trades(
    command: Run, environment: dict[str, str], worker: None
) -> None:
    outcome = command("backfill", SYMBOL, "--to", "2011-01-01", "--follow", **environment)

    assert outcome.code == 0
    words = "no trade before 2011-01-01 00:00:00Z, the next one is at 20"
    assert f"the backfill of {SYMBOL} is done: {words}" in outcome.err
    assert "; 0 new trades in 1 pages, up to 2011-01-01T00:00:00Z\n" in outcome.err


@POSTGRESQL
def test_ctrl_c_leaves_the_backfill_running_and_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "command.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "kraken_history", "backfill", SYMBOL, "--follow"],
            cwd=REPOSITORY, env={**os.environ, **environment}, stdout=output, stderr=output,
        )  # fmt: skip
    give_up = time.monotonic() + 30
    while "pages" not in log.read_text():
        assert time.monotonic() < give_up, log.read_text()
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)

    assert process.wait(20) == 130
    assert f"the backfill of {SYMBOL} stays with the worker" in log.read_text()
    assert "Traceback" not in log.read_text()
    state = ask(environment["DATABASE_URL"], lambda pool: pool.fetchval("SELECT state::text FROM backfills"))
    assert state == "running"


# What is shown


def backfill(reached: timedelta | None, *, trades: int = 0, state: Any = "running") -> Backfill:
    """From the beginning of 2026 for ten days."""
    since = 0 if reached is None else unix_ns(START + reached)
    return Backfill(
        SYMBOL, None, START + timedelta(days=10), since, state, "", trades // 1000, trades, 0, 0, 1, None, START, START
    )


def paced(*samples: tuple[float, timedelta | None, int]) -> Pace:
    pace = Pace()
    for at_s, reached, trades in samples:
        pace.note(backfill(reached, trades=trades), at_s)
    return pace


def test_what_remains_is_estimated_by_the_time_of_the_tape() -> None:
    pace = paced((100, timedelta(), 0), (110, timedelta(days=1), 5_000))

    assert pace.trades_per_s == 500
    assert pace.remaining(START + timedelta(days=10)) == timedelta(seconds=90)
    assert describe(backfill(timedelta(days=1), trades=5_000), pace) == (
        "about 2 min left, 2026-01-02, 5,000 trades, 500/s, 5 pages"
    )


def test_a_terminal_of_80_columns_shows_percent_and_time_left() -> None:
    """The facts before them filled the line, and both were cut off."""
    console = Console(width=80, force_terminal=True, file=io.StringIO(), color_system=None)
    pace = paced((100, timedelta(), 0), (110, timedelta(days=1), 123_456_789))
    facts = describe(backfill(timedelta(days=1), trades=123_456_789), pace)
    bar = progress_bar(console)
    bar.add_task("1INCH/USDT", total=100, completed=43, facts=facts)

    with console.capture() as captured:
        console.print(bar)

    (line,) = captured.get().splitlines()
    assert len(line) <= 80
    assert line.startswith("1INCH/USDT ")
    assert " 43 % about 2 min left, 2026-01-02" in line


def test_only_the_last_minute_counts() -> None:
    pace = paced((0, timedelta(), 0), (100, timedelta(days=5), 0), (150, timedelta(days=6), 1_000))

    assert pace.remaining(START + timedelta(days=10)) == timedelta(seconds=200)
    assert pace.trades_per_s == 20


@pytest.mark.parametrize(
    "samples",
    [
        [(0.0, None, 0)],
        [(0.0, None, 0), (50.0, timedelta(days=1), 0)],
        [(0.0, timedelta(), 0), (1.0, timedelta(days=1), 0)],
        [(0.0, timedelta(), 0), (50.0, timedelta(), 0)],
    ],
)
def test_what_cannot_be_told_is_not(samples: list[tuple[float, timedelta | None, int]]) -> None:
    """Nothing covered yet, too little seen, or standing still."""
    pace = paced(*samples)

    assert pace.remaining(START + timedelta(days=10)) is None
    assert "time left unknown" in describe(backfill(None), pace)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"), (40, "40 s"), (89, "89 s"), (480, "8 min"), (4_800, "1 h 20 min"), (72_000, "20 h"),
        (691_200, "8 days"),
    ],
)  # fmt: skip
def test_an_estimate_has_few_digits(seconds: float, words: str) -> None:
    assert rough(timedelta(seconds=seconds)) == words


def test_the_part_that_is_done_is_that_of_time() -> None:
    assert part_done(backfill(timedelta(days=5)), START) == 0.5
    assert part_done(backfill(timedelta(days=20)), START) == 1.0
    assert part_done(backfill(timedelta(days=5)), None) == 0.0
    assert part_done(backfill(None), START) == 0.0
