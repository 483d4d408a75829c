"""``import-csv`` as a user runs it, and the worker's job."""

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from jobs.context import WorkerContext
from jobs.csv_import import import_csv as job
from kraken_history.cli.worker_notice import NO_WORKER
from kraken_history.completeness.covered_time import cover
from kraken_history.database.connections import connect
from kraken_history.fetching.queue import IMPORT_CSV, JobQueue
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.limiter import LocalRateLimiter
from kraken_history.kraken.resolver import Resolver
from kraken_history.records import HistoricalTrade, TimeRange
from kraken_history.settings import Settings
from kraken_history.storing.store import Store
from simulator import Simulator
from tests.support.command import Run, clean_environment, command
from tests.support.csv_files import candle_line, write, write_zip
from tests.support.examples import make_trade
from tests.support.queue import connect_queue
from tests.support.servers import Background

__all__ = ["clean_environment", "command"]  # fixtures

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
AWAY = "http://127.0.0.1:9"


async def count(database_url: str) -> int:
    connection = await connect(database_url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM candles"))
    finally:
        await connection.close()


async def symbols(database_url: str) -> list[str]:
    connection = await connect(database_url)
    try:
        return [row["symbol"] for row in await connection.fetch("SELECT symbol FROM candles ORDER BY symbol")]
    finally:
        await connection.close()


def before_seams(err: str) -> list[str]:
    """The lines of the report, without the advice about open seams after it."""
    return [line for line in err.splitlines() if "nothing is known" not in line and not line.startswith("    kraken-")]


def test_good_files_are_imported_and_bad_ones_are_told(
    tmp_path: Path, migrated_database_url: str, background: Background, command: Run
) -> None:
    write(tmp_path / "XBTUSDT_1.csv", [candle_line(0), candle_line(1)])
    write(tmp_path / "XBTUSDT_60.csv", [candle_line(0)])
    write(tmp_path / "ETHUSDT_1.csv", [candle_line(0), "1672531260,1"])
    content = f"{candle_line(0)}\n".encode()
    write_zip(tmp_path / "all.zip", {"q/SOLUSDT_1.csv": content, "q/SOLUSDT_5.csv": content})

    outcome = command("import-csv", str(tmp_path), DATABASE_URL=migrated_database_url, KRAKEN_REST_URL=AWAY)

    assert outcome.code == 1
    assert background.run(count(migrated_database_url)) == 3
    assert "BTC/USDT" in outcome.out
    assert "SOL/USDT" in outcome.out
    assert before_seams(outcome.err) == [
        f"skipped {tmp_path}/XBTUSDT_60.csv: candles of 60 minutes are computed from those of one minute",
        f"skipped {tmp_path}/all.zip/q/SOLUSDT_5.csv: candles of 5 minutes are computed from those of one minute",
        f"refused {tmp_path}/ETHUSDT_1.csv:2: expected 7 columns (time, open, high, low, close, volume, trades), got 2",
        "2 file(s) imported, 2 skipped, 1 refused; 3 candle(s) new, 0 replaced",
    ]


def test_the_open_seams_are_told_with_the_command_that_closes_each(
    tmp_path: Path, migrated_database_url: str, background: Background, command: Run
) -> None:
    """Ten days of January by CSV and trades from September on looked complete: nothing named the hole between them."""
    line = candle_line(0)
    end = datetime.fromtimestamp(int(line.partition(",")[0]) + 60, UTC)
    later = end + timedelta(days=40, seconds=30)
    write(tmp_path / "XBTUSDT_1.csv", [line])
    background.run(store(migrated_database_url, [make_trade(1, later), make_trade(2, later + timedelta(hours=1))]))

    outcome = command("import-csv", str(tmp_path), DATABASE_URL=migrated_database_url, KRAKEN_REST_URL=AWAY)
    background.run(cover_all(migrated_database_url, "BTC/USDT", TimeRange(end, later)))
    again = command("import-csv", str(tmp_path))

    assert (outcome.code, again.code) == (0, 0)
    assert outcome.err.splitlines()[-2:] == [
        f"BTC/USDT: nothing is known from {end:%Y-%m-%d %H:%M}Z to {later:%Y-%m-%d %H:%M}Z (40 d): fetch it with",
        f"    kraken-history backfill BTC/USDT --from {end:%Y-%m-%dT%H:%M:%SZ} --to {later:%Y-%m-%dT%H:%M:%SZ}",
    ]
    assert "nothing is known" not in again.err


async def store(database_url: str, trades: Sequence[HistoricalTrade]) -> None:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        await Store(pool).write(trades)


async def cover_all(database_url: str, symbol: str, covered: TimeRange) -> None:
    connection = await connect(database_url)
    await cover(connection, symbol, covered)
    await connection.close()


def test_a_second_run_finds_nothing_to_do(tmp_path: Path, migrated_database_url: str, command: Run) -> None:
    path = write(tmp_path / "whatever_1.csv", [candle_line(0)])

    first = command("import-csv", str(path), "--symbol", "btc/usdt", DATABASE_URL=migrated_database_url)
    second = command("import-csv", str(path), "--symbol", "XBTUSDT", DATABASE_URL=migrated_database_url)

    assert (first.code, second.code) == (0, 0)
    assert before_seams(first.err)[-1] == "1 file(s) imported, 0 skipped, 0 refused; 1 candle(s) new, 0 replaced"
    assert before_seams(second.err)[-1] == "1 file(s) imported, 0 skipped, 0 refused; 0 candle(s) new, 0 replaced"


def test_a_symbol_is_stored_under_our_name_whichever_of_krakens_is_said(
    tmp_path: Path, migrated_database_url: str, background: Background, command: Run
) -> None:
    """Under any other it would be a symbol that nothing else writes or reads."""
    path = write(tmp_path / "whatever_1.csv", [candle_line(0)])
    said = ["XBT/USDC", "XDG/EUR", "XXBT/ZUSD", "XXDG/XXBT", "XTZ/ZEUR", "ZEUS/USD"]

    for symbol in said:
        assert command("import-csv", str(path), "--symbol", symbol, DATABASE_URL=migrated_database_url).code == 0

    assert background.run(symbols(migrated_database_url)) == [
        "BTC/USD", "BTC/USDC", "DOGE/BTC", "DOGE/EUR", "XTZ/EUR", "ZEUS/USD",
    ]  # fmt: skip


def test_without_kraken_an_unknown_pair_needs_a_symbol(
    tmp_path: Path, migrated_database_url: str, command: Run
) -> None:
    path = write(tmp_path / "XBTAUSD_1.csv", [candle_line(0)])

    outcome = command("import-csv", str(path), DATABASE_URL=migrated_database_url, KRAKEN_REST_URL=AWAY)

    refusal = next(line for line in outcome.err.splitlines() if line.startswith("refused "))
    assert outcome.code == 1
    assert refusal.startswith(f"refused {path}: Kraken could not be asked which pair XBTAUSD is (no answer from Kraken")
    assert "--symbol BASE/QUOTE" in refusal


def test_without_kraken_pairs_are_known_by_their_names(
    tmp_path: Path, migrated_database_url: str, background: Background, command: Run
) -> None:
    write(tmp_path / "BTCUSDC_1.csv", [candle_line(0)])
    write(tmp_path / "note.csv", ["Dear Bob,"])
    write(tmp_path / "XBTAUSD_1.csv", [candle_line(0)])
    write_zip(tmp_path / "z.zip", {"XBTUSD.csv": b"1672531200,1,1\n", "ETHEUR_1.csv": b""})

    outcome = command("import-csv", str(tmp_path), DATABASE_URL=migrated_database_url, KRAKEN_REST_URL=AWAY)

    told = [line for line in before_seams(outcome.err) if "rest_busy" not in line]
    assert outcome.code == 1
    assert background.run(count(migrated_database_url)) == 2
    assert told[0] == "no list of pairs from Kraken: by their names alone, files were taken for BTC/USDC, BTC/USD"
    assert [line.partition(": ")[0] for line in told[1:-1]] == [
        f"refused {tmp_path}/XBTAUSD_1.csv",
        f"refused {tmp_path}/note.csv:1",
        f"refused {tmp_path}/z.zip/ETHEUR_1.csv:1",
    ]
    assert told[-1] == "2 file(s) imported, 0 skipped, 3 refused; 2 candle(s) new, 0 replaced"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.csv"], "nowhere.csv: no such file or folder"),
        ([".", "--symbol", "BTC-USD"], "expected BASE/QUOTE, such as BTC/USDT, got 'BTC-USD'"),
        ([], "Missing argument 'PATH...'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_done(
    arguments: list[str], words: str, database_server: object, command: Run
) -> None:
    outcome = command("import-csv", *arguments)

    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_folder_without_csv_files_fails_without_starting_a_server(
    tmp_path: Path, database_server: object, command: Run
) -> None:
    (tmp_path / "empty").mkdir()

    outcome = command("import-csv", str(tmp_path / "empty"))

    assert outcome.code == 1
    assert outcome.err.startswith(f"refused {tmp_path}/empty: the folder contains no .csv or .zip file\n")
    assert not (tmp_path / "data").exists()


def test_as_a_process(tmp_path: Path, migrated_database_url: str, background: Background) -> None:
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(0)])

    ended = subprocess.run(
        [sys.executable, "-m", "kraken_history", "import-csv", str(path)],
        env={**os.environ, "DATABASE_URL": migrated_database_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert before_seams(ended.stderr) == ["1 file(s) imported, 0 skipped, 0 refused; 1 candle(s) new, 0 replaced"]
    assert background.run(count(migrated_database_url)) == 1


def test_the_worker_can_be_asked(
    tmp_path: Path, redis_url: str, database_server: object, background: Background, command: Run
) -> None:
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(0)])

    async def queued() -> list[tuple[str, tuple[object, ...]]]:
        async with await connect_queue(redis_url) as arq:
            return [(job.function, tuple(job.args)) for job in await arq.queued_jobs()]

    first = command("import-csv", str(path), "--worker", REDIS_URL=redis_url)
    second = command("import-csv", str(path), "--worker", REDIS_URL=redis_url)

    assert (first.code, second.code) == (0, 0)
    assert first.err.endswith(f"the outcome of each file\n{NO_WORKER}")
    assert "already in the worker's queue" in second.err
    assert background.run(queued()) == [(IMPORT_CSV, ([str(path)], None))]


def test_before_anything_is_begun_only_what_is_wrong_with_the_command_is_told(
    tmp_path: Path, migrated_database_url: str, command: Run
) -> None:
    for name in ("XBTUSDT_1.csv", "ETHUSDT_1.csv"):
        write(tmp_path / name, [candle_line(0)])
    (tmp_path / "broken.zip").write_bytes(b"PK")

    outcome = command("import-csv", str(tmp_path), "--symbol", "BTC/USDT", DATABASE_URL=migrated_database_url)

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "kraken-history: expected files of one pair with --symbol BTC/USDT, got 2 pairs: ETHUSDT, XBTUSDT\n"
    )


async def test_the_job_imports_what_the_worker_sees(tmp_path: Path, pool: asyncpg.Pool, redis_url: str) -> None:
    write(tmp_path / "XBTUSDT_1.csv", [candle_line(0), candle_line(1)])
    write(tmp_path / "XBTUSD_1.csv", ["x"])
    (tmp_path / "broken.zip").write_bytes(b"PK")
    async with (
        Simulator(emitting=False, history=10) as kraken,
        KrakenRest(kraken.rest_url, LocalRateLimiter(), attempts=1) as rest,
        await connect_queue(redis_url) as arq,
    ):
        ctx = {
            "job_try": 1,
            "context": WorkerContext(
                Settings(), pool, Store(pool), rest, Resolver(rest.fetch_asset_pairs), JobQueue(arq)
            ),
        }

        new = [await job(ctx, [str(tmp_path)], None) for _ in range(2)]
        nowhere = await job(ctx, [str(tmp_path / "nowhere")], None)

    assert new == [2, 0]
    assert nowhere == 0
    assert await pool.fetchval("SELECT count(*) FROM candles") == 2
