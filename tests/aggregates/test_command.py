"""``kraken-history refresh``, and the worker's job."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from jobs.aggregates import refresh_aggregates
from kraken_history.cli.app import run
from kraken_history.database.connections import create_pool
from kraken_history.runtime.clocks import OtherClock
from kraken_history.storing.aggregates import sole_refresher
from kraken_history.storing.longer_intervals import AGGREGATES
from kraken_history.storing.store import Store
from tests.aggregates.truth import assert_right, materialized
from tests.support.examples import make_trade
from tests.support.servers import Background

MONDAY = datetime(2025, 11, 10, tzinfo=UTC)


@pytest.fixture
def filled_url(migrated_database_url: str, background: Background, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with two days of trades that nobody has refreshed; the commands' one."""

    async def fill() -> None:
        async with await create_pool(migrated_database_url, min_size=1, max_size=1) as pool:
            await Store(pool).write([make_trade(n, MONDAY + n * timedelta(minutes=17)) for n in range(170)])

    background.run(fill())
    monkeypatch.setenv("DATABASE_URL", migrated_database_url)
    return migrated_database_url


def rows(captured: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(captured)
    return found


def test_it_refreshes_what_is_marked_and_says_what_that_was(
    filled_url: str, background: Background, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["refresh", "--json"]) == 0
    first = rows(capsys.readouterr().out)
    assert run(["refresh"]) == 0
    second = capsys.readouterr()

    assert [row["interval"] for row in first] == ["5m", "15m", "30m", "1h", "4h", "12h", "1d", "1w"]
    assert first[-1] == {
        "interval": "1w", "start": "2025-11-10T00:00:00Z", "end": "2025-11-17T00:00:00Z", "windows": 1, "kept": 0
    }  # fmt: skip
    assert (second.out, second.err) == ("", "nothing to refresh: every closed candle is up to date\n")

    async def check() -> None:
        async with await create_pool(filled_url, min_size=1, max_size=1) as pool:
            await assert_right(pool)
            assert await materialized(pool, AGGREGATES[7]) == 1

    background.run(check())


def test_it_refreshes_a_range_and_keeps_what_lost_its_rows(
    filled_url: str, background: Background, capsys: pytest.CaptureFixture[str]
) -> None:
    async def lose() -> None:
        connection = await asyncpg.connect(filled_url)
        six, noon = MONDAY + timedelta(hours=6), MONDAY + timedelta(hours=12)
        await connection.execute("DELETE FROM candles WHERE timestamp >= $1 AND timestamp < $2", six, noon)
        await connection.close()

    run(["refresh"])
    background.run(lose())
    capsys.readouterr()

    assert run(["refresh", "--from", "2025-11-10", "--to", "2025-11-11"]) == 0

    out, err = capsys.readouterr()
    assert "2025-11-10 00:00:00Z" in out
    assert err == "some candles were kept as they were, because their one-minute candles have been deleted\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--from", "last week"], "--from: expected a time such as"),
        (["--from", "2026-01-02", "--to", "2026-01-01"], "--from 2026-01-02T00:00:00Z must be before --to"),
        (["--from", "2999-01-01"], "--from 2999-01-01T00:00:00Z must be before --to"),
    ],
)
def test_what_is_no_range_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")

    assert run(["refresh", *arguments]) == 2

    assert complaint in capsys.readouterr().err


async def test_the_job_refreshes_unless_another_does(pool: asyncpg.Pool, store: Store) -> None:
    await store.write([make_trade(1, MONDAY)])
    worker = SimpleNamespace(unhurried_pool=pool, rest=SimpleNamespace(clock=OtherClock()), settled_to="")
    context = {"context": worker}

    async with sole_refresher(pool):
        assert await refresh_aggregates(context) == 0
    assert await refresh_aggregates(context) == 8
    assert await refresh_aggregates(context) == 0
