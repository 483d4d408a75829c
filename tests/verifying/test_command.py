"""The command: what it prints, its exit code, and what it needs."""

import json
from collections.abc import Callable

import asyncpg
import pytest

from kraken_history.completeness.holes import find_holes
from kraken_history.ledger import IdRanges
from kraken_history.storing.repair import sole_repairer
from tests.support.command import Run
from tests.support.servers import Background
from tests.verifying.histories import store_history

CHANGE = "UPDATE candles SET close = 100.6 WHERE symbol = 'BTC/USDT' AND timestamp = '2025-11-10 10:10:00+00'"
DELETE = "DELETE FROM trades WHERE symbol = 'BTC/USDT' AND id IN (184, 185, 400)"
POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
Execute = Callable[[str], None]


@pytest.fixture
def execute(migrated_database_url: str, background: Background) -> Execute:
    """Runs a statement on a database that holds the history."""

    async def run(statement: str | None) -> None:
        async with asyncpg.create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
            await (store_history(pool) if statement is None else pool.execute(statement))

    background.run(run(None))
    return lambda statement: background.run(run(statement))


async def holes(database_url: str) -> dict[str, IdRanges]:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        return await find_holes(pool)


def test_json_has_the_documented_form(command: Run, execute: Execute, migrated_database_url: str) -> None:
    healthy = command("verify", "--json", DATABASE_URL=migrated_database_url)
    execute(CHANGE)
    damaged = command("verify", "--json")

    assert (healthy.code, damaged.code, healthy.err, damaged.err) == (0, 1, "", "")
    ok, found = json.loads(healthy.out), json.loads(damaged.out)
    assert ok.keys() == found.keys() == {"ok", "checked", "differences"}
    assert (ok["ok"], ok["differences"], found["ok"]) == (True, [], False)
    longer = {f"candles_{name}" for name in ("5m", "15m", "30m", "1h", "4h", "12h", "1d", "1w")}
    assert ok["checked"].keys() == {"symbols", "from", "to", "trades", "candles", "longer_candles"} | longer
    assert ok["checked"]["symbols"] == ["BTC/USDT", "ETH/USDT"]
    assert (ok["checked"]["from"], ok["checked"]["to"]) == ("2025-11-10T00:10:00Z", "2025-11-14T00:01:00Z")
    assert (ok["checked"]["trades"], ok["checked"]["candles"], ok["checked"]["candles_1w"]) == (2592, 866, 2)
    assert {
        "symbol": "BTC/USDT",
        "what": "candle_differs",
        "start": "2025-11-10T10:10:00Z",
        "end": "2025-11-10T10:11:00Z",
        "detail": "close is 100.6, its trades give 105.5",
    } in found["differences"]


def test_a_repair_says_what_it_did_and_lost_trades_are_missing_then(
    command: Run, execute: Execute, migrated_database_url: str, background: Background
) -> None:
    execute(DELETE)

    repaired = command("verify", "btc/usdt", "--repair", DATABASE_URL=migrated_database_url)
    again = command("verify", "BTC/USDT", "--json")
    missing = background.run(holes(migrated_database_url))

    assert repaired.code == 0
    assert "3 trades without a row are missing again: `kraken-history fill-gaps` fetches them" in repaired.out
    assert "everything agrees" in repaired.out
    assert json.loads(again.out)["ok"] is True
    assert missing == {"BTC/USDT": IdRanges([(184, 186), (400, 401)])}


@POSTGRESQL
@pytest.mark.parametrize("is_terminal", [False, True])
def test_differences_fit_into_eighty_columns(
    command: Run, execute: Execute, migrated_database_url: str, is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(CHANGE)
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "80")

    outcome = command("verify", DATABASE_URL=migrated_database_url)

    assert outcome.code == 1
    assert "candle differs" in outcome.out
    assert "--repair" in outcome.err
    if is_terminal:
        assert max(map(len, outcome.out.splitlines())) <= 80


def test_reading_is_enough_to_verify_and_not_to_repair(
    command: Run, execute: Execute, reader_url: str, writer_url: str
) -> None:
    healthy = command("verify", "--json", DATABASE_URL=reader_url)
    execute(CHANGE)
    damaged = command("verify", "--json", DATABASE_URL=reader_url)
    refused = [command("verify", "--repair", DATABASE_URL=url) for url in (reader_url, writer_url)]

    assert (healthy.code, damaged.code) == (0, 1)
    for outcome in refused:
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert "expected the owner of the tables for --repair" in outcome.err


@POSTGRESQL
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["DOGE/USD"], 2, "holds nothing of 'DOGE/USD'"),
        (["--from", "2026-02-01", "--to", "2026-01-01"], 2, "must be before --to"),
        (["--from", "yesterday?"], 2, "--from: expected a time"),
        (["no symbol"], 2, "expected BASE/QUOTE"),
    ],
)
def test_wrong_arguments_are_one_line(
    command: Run, migrated_database_url: str, arguments: list[str], code: int, words: str
) -> None:
    outcome = command("verify", *arguments, DATABASE_URL=migrated_database_url)

    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (code, "", 1)
    assert words in outcome.err


@POSTGRESQL
def test_an_empty_range_is_said(command: Run, execute: Execute, migrated_database_url: str) -> None:
    outcome = command("verify", "--from", "2030-01-01", DATABASE_URL=migrated_database_url)

    assert (outcome.code, outcome.out) == (0, "nothing is stored in this range\n")


@POSTGRESQL
def test_one_repair_runs_at_a_time(
    command: Run, execute: Execute, migrated_database_url: str, background: Background
) -> None:
    async def begin() -> tuple[asyncpg.Pool, object]:
        pool = await asyncpg.create_pool(migrated_database_url, min_size=1, max_size=1)
        repairing = sole_repairer(pool)
        await repairing.__aenter__()
        return pool, repairing

    pool, _repairing = background.run(begin())
    outcome = command("verify", "--repair", DATABASE_URL=migrated_database_url)
    pool.terminate()

    assert (outcome.code, outcome.out) == (1, "")
    assert "another repair is running" in outcome.err


def test_given_candles_have_a_remedy_of_their_own(command: Run, execute: Execute, migrated_database_url: str) -> None:
    execute(
        "INSERT INTO longer_candles SELECT 'BTC/USDT', 60, '2025-10-10 10:00Z', 5, 5, 5, 5, 1, 5, 1, 5, 'ohlc', now()"
    )

    outcome = command("verify", DATABASE_URL=migrated_database_url)

    assert outcome.code == 1
    assert outcome.err.splitlines()[-1] == (
        "`kraken-history fetch-ohlc SYMBOL` or another import stores these candles again"
    )
