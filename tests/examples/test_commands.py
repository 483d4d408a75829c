"""The examples as somebody runs them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

import paper_tester
from kraken_history.backtests import list_runs, load_run
from kraken_history.database.connections import create_pool
from kraken_history.records import HistoricalTrade, floor_minute
from kraken_history.storing.store import Store
from simulator import Simulator
from tests.examples.testers import PaperTester, run_example, saved_run
from tests.support.examples import NOON, make_trade
from tests.support.waiting import until

pytestmark = pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)

SHORT = ("--fast", "1", "--slow", "2")


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
        yield pool


def trade_a_minute(*prices: str) -> list[HistoricalTrade]:
    return [make_trade(n, NOON + n * timedelta(minutes=1), price) for n, price in enumerate(prices)]


async def test_a_backtest_prints_and_saves_its_result(migrated_database_url: str, pool: asyncpg.Pool) -> None:
    await Store(pool).write(trade_a_minute("100", "110", "120", "90", "95"))
    words = (*SHORT, "--fee", "0.01", "--from", "2025-11-10T12:00", "--to", "2025-11-10T12:04")
    done = await asyncio.to_thread(run_example, "backtest", *words, "--verbose", database_url=migrated_database_url)
    run = await load_run(pool, UUID(saved_run(done.stdout)))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:4] == [
        "2025-11-10 12:02Z BUY  at 110 profit -1.1",
        "2025-11-10 12:04Z SELL at 90 profit -22",
        "BTC/USDT: 4 candles, 1 round trips, 0 of them won, profit -22 after fees of 2, largest drawdown 30.9",
    ]
    assert (run.start_time, run.end_time) == (NOON, NOON + timedelta(minutes=4))
    assert Decimal(run.metrics["BTC/USDT"]["profit"]) == -22
    assert len(run.trades or ()) == 2


async def test_a_backtest_without_a_candle_saves_nothing(migrated_database_url: str, pool: asyncpg.Pool) -> None:
    await Store(pool).write(trade_a_minute("100", "110"))
    stored = "are stored from 2025-11-10 12:00Z to 2025-11-10 12:02Z: give another --from and --to"
    for words, complaint in (
        (("--from", "2020-01-01", "--to", "2020-02-01"), "31 d of the range is missing"),
        (("--from", "2020-01-01", "--to", "2020-02-01", "--gaps", "ignore"), stored),
        (("--interval", "10080"), stored),
    ):
        done = await asyncio.to_thread(run_example, "backtest", *words, database_url=migrated_database_url)

        assert (done.returncode, done.stderr.count("\n")) == (1, 2 if "ignore" in words else 1)
        assert complaint in done.stderr
        assert await list_runs(pool) == []


async def test_a_paper_tester_warms_up_follows_and_saves(
    migrated_database_url: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    trades = trade_a_minute("100", "100", "110", "120", "90", "95")
    await Store(pool).write(trades[:3])
    with PaperTester(tmp_path / "log", migrated_database_url, *SHORT, "--no-gap-fill") as tester:
        await until(lambda: tester.is_following)
        await Store(pool).write(trades[3:])
        await until(lambda: len(tester.candles("BTC/USDT")) == 3)
        code = await asyncio.to_thread(tester.stop)
    run = await load_run(pool, UUID(saved_run(tester.output)))

    assert code == 0
    assert "gap filling: skipped, as asked\nwarm-up: BTC/USDT, 2 of 2 candles up to 2025-11-10 12:02Z" in tester.output
    assert [close for _, close in tester.candles("BTC/USDT")] == ["110", "120", "90"]
    assert [fill["side"] for fill in run.trades or ()] == ["buy", "sell"]
    assert (run.start_time, run.end_time) == (NOON + timedelta(minutes=2), NOON + timedelta(minutes=5))


async def test_a_paper_tester_stops_after_so_many_candles_or_so_long(
    migrated_database_url: str, pool: asyncpg.Pool
) -> None:
    await Store(pool).write(trade_a_minute("100", "100"))
    words = ("--no-gap-fill", "--seconds", "0.1", "--symbols", "eth/usdt, BTC/USDT")
    done = await asyncio.to_thread(run_example, "paper_tester", *words, database_url=migrated_database_url)

    assert (done.returncode, done.stderr) == (0, "")
    assert "warm-up: ETH/USDT, 0 of 20 candles\nwarm-up: BTC/USDT, 1 of 20 candles up to" in done.stdout
    assert done.stdout.endswith("no candle closed: there is nothing to save\n")


async def test_a_paper_tester_fills_gaps_before_it_begins(migrated_database_url: str, pool: asyncpg.Pool) -> None:
    async with Simulator(symbols=["BTC/USDT"], history=900, history_hours=3, emitting=False) as exchange:
        words = ("--kraken-rest-url", exchange.rest_url, "--seconds", "0.1", "--slow", "100")
        done = await asyncio.to_thread(run_example, "paper_tester", *words, database_url=migrated_database_url)

    assert (done.returncode, done.stderr) == (0, "")
    assert "gap filling: 1 of 1 gaps, 900 trades, " in done.stdout
    assert "warm-up: BTC/USDT, 100 of 100 candles up to " in done.stdout


async def test_a_backtest_ends_with_the_last_candle_that_is_closed(
    migrated_database_url: str, pool: asyncpg.Pool
) -> None:
    """It took the running minute, and its saved end was in the future."""
    running = floor_minute(datetime.now(UTC)) + timedelta(minutes=1)  # or the clock may pass it meanwhile
    ago = [running - n * timedelta(minutes=1) for n in (5, 4, 0)]
    await Store(pool).write([make_trade(n, at, "100") for n, at in enumerate(ago)])

    for words in ((), ("--to", "2999-01-01")):
        done = await asyncio.to_thread(run_example, "backtest", *SHORT, *words, database_url=migrated_database_url)
        run = await load_run(pool, UUID(saved_run(done.stdout)))

        assert "BTC/USDT: 2 candles" in done.stdout
        assert run.end_time <= datetime.now(UTC)


@pytest.mark.parametrize("name", ["paper_tester", "backtest"])
def test_mistakes_are_told_in_one_line(name: str, database_server: object) -> None:
    for words, complaint in {
        (): "no database: set DATABASE_URL or give --database-url",
        ("--database-url", "postgresql://me@127.0.0.1:1/x"): "no database answers at 127.0.0.1:1/x",
        ("--database-url", "x", "--fast", "9", "--slow", "9"): "the fast average must be shorter",
        ("--fee", "much"): "argument --fee: expected a number, got 'much'",
    }.items():
        done = run_example(name, *words, database_url=None)

        assert done.returncode in (1, 2)
        assert (done.stdout, done.stderr.count("\n")) == ("", 1), done.stderr
        assert complaint in done.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--seconds", "-1"), "--seconds: expected a number of seconds"),
        (("--seconds", "nan"), "--seconds: expected a number of seconds"),
        (("--grace", "nan"), "--grace: expected a number of seconds"),
        (("--symbols", "FOO"), "expected BASE/QUOTE, such as BTC/USDT, got 'FOO'"),
        (("--symbols", ","), "expected BASE/QUOTE, such as BTC/USDT, got ''"),
        (("--interval", "0"), "a whole number of minutes from 1"),
        (("--interval", "x"), "an interval such as 15m, 1h, 4h, 1d or 1w, got 'x'"),
        (("--candles", "0"), "expected a whole number from 1 to 99999, got '0'"),
        (("--kraken-rest-url", "nonsense"), "got 'nonsense'"),
        (("--database-url", "foo"), "postgresql://"),
    ],
)
def test_a_paper_tester_refuses_at_once_what_makes_no_sense(
    words: tuple[str, ...], complaint: str, database_server: object
) -> None:
    done = run_example("paper_tester", *words, database_url="postgresql://me@127.0.0.1:1/x")

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert complaint in done.stderr


def test_kraken_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], database_server: object
) -> None:
    monkeypatch.setenv("KRAKEN_REST_URL", "http://127.0.0.1:9")

    with pytest.raises(SystemExit):
        paper_tester.main(["--help"])

    assert "(http://127.0.0.1:9)" in "".join(capsys.readouterr().out.split())
