"""The examples and history that is not complete."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from kraken_history.backtests import SymbolCoverage, list_runs, load_run
from kraken_history.database.connections import create_pool
from kraken_history.records import floor_minute
from kraken_history.storing.store import Store
from tests.examples.testers import run_example, saved_run
from tests.support.examples import make_candle, make_trade

JANUARY, SEPTEMBER = datetime(2024, 1, 1, tzinfo=UTC), datetime(2026, 9, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SHORT = ("--fast", "1", "--slow", "2")


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
        yield pool


async def test_a_backtest_across_a_hole_of_992_days_is_refused(migrated_database_url: str, pool: asyncpg.Pool) -> None:
    """It read 1,673 candles, reported a profit of 28,663.79 and saved it."""
    download = [make_candle(JANUARY + n * HOUR) for n in range(240)]
    live = [make_trade(n, SEPTEMBER + n * 10 * HOUR) for n in range(210)]
    await Store(pool).write(candles=download, candle_source="csv")
    await Store(pool).write(live)
    await pool.execute(
        """
        UPDATE data_sync_status SET time_ranges = time_ranges + tstzmultirange(tstzrange($1, $2))
        WHERE data_type = 'candles_1m'
        """,
        JANUARY,
        JANUARY + 240 * HOUR,
    )
    words = (*SHORT, "--interval", "60", "--from", "2024-01-01", "--to", "2026-11-20")

    refused = await asyncio.to_thread(run_example, "backtest", *words, database_url=migrated_database_url)
    saved_by_refusal = await list_runs(pool)
    ignored = await asyncio.to_thread(
        run_example, "backtest", *words, "--gaps", "ignore", database_url=migrated_database_url
    )
    proven = await asyncio.to_thread(
        run_example, "backtest", *words[:-3], "2026-09-01", *words[-2:], database_url=migrated_database_url
    )
    by_days = await asyncio.to_thread(
        run_example, "backtest", *words[:-4], "--days", "80", *words[-2:], database_url=migrated_database_url
    )
    contradictory = await asyncio.to_thread(
        run_example, "backtest", *words, "--days", "80", database_url=migrated_database_url
    )
    tomorrow = await asyncio.to_thread(
        run_example, "backtest", *words[:-4], "--from", "tomorrow", database_url=migrated_database_url
    )
    none = await asyncio.to_thread(run_example, "backtest", "--days", "0", database_url=migrated_database_url)

    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "BTC/USDT: 964 d" in refused.stderr
    assert "from 2024-01-11 00:00Z to 2026-09-01 00:00Z" in refused.stderr
    assert "`kraken-history backfill BTC/USDT --from 2024-01-11T00:00:00Z --to 2026-09-01T00:00:00Z`" in refused.stderr
    assert "add --gaps ignore" in refused.stderr
    assert saved_by_refusal == []
    assert ignored.returncode == 0
    assert ignored.stderr.startswith("warning: 964 d of BTC/USDT is missing")
    over_the_hole = (await load_run(pool, UUID(saved_run(ignored.stdout)))).coverage
    assert over_the_hole is not None
    assert (over_the_hole.gaps, over_the_hole.missing_s // 86_400) == ("ignore", 964)
    assert (proven.returncode, proven.stderr) == (0, "")
    assert by_days.stdout.splitlines()[0] == proven.stdout.splitlines()[0]
    assert (contradictory.returncode, contradictory.stdout, none.returncode) == (2, "", 2)
    assert tomorrow.returncode == 2
    assert "today or yesterday, got 'tomorrow'" in tomorrow.stderr
    assert "either --from or --days" in contradictory.stderr
    assert "expected a whole number of days from 1 to 20000, got '0'" in none.stderr
    run = await load_run(pool, UUID(saved_run(proven.stdout)))
    assert run.coverage is not None
    assert run.coverage.gaps == "raise"
    assert run.coverage.missing_s == 0
    assert run.coverage.symbols["BTC/USDT"].proven_s == 192 * 60


async def test_the_default_range_does_not_refuse_because_history_begins_and_ends_within_a_minute(
    migrated_database_url: str, pool: asyncpg.Pool
) -> None:
    start = datetime(2025, 11, 10, 12, 0, 20, tzinfo=UTC)
    await Store(pool).write([make_trade(n, start + n * timedelta(minutes=1)) for n in range(10)])

    done = await asyncio.to_thread(run_example, "backtest", *SHORT, database_url=migrated_database_url)

    assert (done.returncode, done.stderr) == (0, "")
    run = await load_run(pool, UUID(saved_run(done.stdout)))
    minute = floor_minute(start)
    assert run.coverage is not None
    assert run.coverage.symbols["BTC/USDT"] == SymbolCoverage(
        start=minute + timedelta(minutes=1), end=minute + timedelta(minutes=9),
        proven_s=480, exchange_s=0, quiet_s=0, missing_s=0,
    )  # fmt: skip


async def test_a_paper_tester_does_not_warm_up_across_a_hole(
    migrated_database_url: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    start = datetime(2025, 11, 10, 12, tzinfo=UTC)
    await Store(pool).write([make_trade(n, start + n * timedelta(minutes=1)) for n in range(10) if n != 7])
    words = (*SHORT[:3], "8", "--no-gap-fill", "--seconds", "0.1")

    refused = await asyncio.to_thread(run_example, "paper_tester", *words, database_url=migrated_database_url)
    ignored = await asyncio.to_thread(
        run_example, "paper_tester", *words, "--gaps", "ignore", database_url=migrated_database_url
    )

    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "BTC/USDT: 3 min of the range is missing" in refused.stderr
    assert "add --gaps ignore" in refused.stderr
    assert (ignored.returncode, ignored.stderr) == (0, "")
    assert "warm-up: BTC/USDT, 8 of 8 candles" in ignored.stdout
