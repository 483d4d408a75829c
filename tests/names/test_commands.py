"""Every name of a symbol, in every command and example that takes one."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

import backtest as backtest_example
import paper_tester
from kraken_history.cli.backfill import _DONE
from kraken_history.database.stored_symbols import fetch_stored_symbols
from kraken_history.fetching.queue import FILL_GAP, IMPORT_CSV
from simulator import Simulator
from tests.names.conftest import EVERY_NAME, SYMBOLS
from tests.support.command import Run
from tests.support.csv_files import candle_line, write
from tests.support.queue import connect_queue
from tests.support.servers import DatabaseServer

QUICK = {"REST_CALL_SPACING_S": "0.001", "REST_TOTAL_SPACING_S": "0.001", "HISTORY_DAYS": "1"}
POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


@pytest.fixture
def of_filled(filled_url: str, redis_url: str, kraken: Simulator) -> dict[str, str]:
    """The environment of a command on the database that is only read."""
    return {"DATABASE_URL": filled_url, "REDIS_URL": redis_url, "KRAKEN_REST_URL": kraken.rest_url, **QUICK}


@pytest.fixture
def of_empty(of_filled: dict[str, str], migrated_database_url: str) -> dict[str, str]:
    """The same on a database of its own."""
    return {**of_filled, "DATABASE_URL": migrated_database_url}


@pytest.fixture
def in_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stored(url: str) -> list[str]:
    async def ask() -> list[str]:
        connection = await asyncpg.connect(url)
        try:
            return await fetch_stored_symbols(connection)
        finally:
            await connection.close()

    return asyncio.run(ask())


def queued(redis_url: str, function: str) -> list[tuple[object, ...]]:
    async def ask() -> list[tuple[object, ...]]:
        async with await connect_queue(redis_url) as arq:
            return [tuple(job.args) for job in await arq.queued_jobs() if job.function == function]

    return asyncio.run(ask())


@pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
def test_candles(symbol: str, name: str, of_filled: dict[str, str], command: Run, in_folder: Path) -> None:
    outcome = command("candles", name, "--format", "json", "--limit", "2", **of_filled)
    drawn = command("candles", name, "--plot", "c.png")

    assert (outcome.code, drawn.code) == (0, 0), drawn.err
    assert [row["symbol"] for row in json.loads(outcome.out)] == [symbol] * 2
    assert (in_folder / "c.png").stat().st_size > 1_000


@pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
def test_export(symbol: str, name: str, of_filled: dict[str, str], command: Run, in_folder: Path) -> None:
    outcome = command("export", name, "--interval", "60", "--gaps", "ignore", **of_filled)
    again = command("export", name, "--interval", "60", "--gaps", "ignore")

    file = in_folder / f"{symbol.replace('/', '-')}_60.csv"
    assert (outcome.code, again.code) == (0, 2), outcome.err
    assert f"of {symbol}, 60 min, written to {file}\n" in outcome.err
    assert f"{file}" in again.err  # it is there already
    assert {line.split(",")[0] for line in file.read_text().splitlines()[1:]} == {symbol}


@pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
def test_backfill(symbol: str, name: str, of_empty: dict[str, str], command: Run) -> None:
    other = next(each for each in SYMBOLS if each != symbol)
    assert command("backfill", other, **of_empty).code == 0
    asked = command("backfill", name)
    done = {action: command("backfill", name, f"--{action}") for action in ("pause", "resume", "cancel")}
    status = command("backfill", name, "--status", "--json")

    assert asked.err.startswith(f"requested {symbol} from the beginning to ")
    for action, outcome in done.items():
        assert outcome.code == 0
        assert f"{_DONE[action]} {symbol}, which has reached" in outcome.err
    assert [(row["symbol"], row["state"]) for row in json.loads(status.out)] == [(symbol, "cancelled")]


@pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
def test_fill_gaps(symbol: str, name: str, of_empty: dict[str, str], command: Run) -> None:
    asked = command("fill-gaps", "--symbol", name, **of_empty)
    jobs = queued(of_empty["REDIS_URL"], FILL_GAP)
    done = command("fill-gaps", "--symbol", name, "--wait", "--json")

    assert (asked.code, [job[0] for job in jobs]) == (0, [symbol])
    assert (done.code, json.loads(done.out)["errors"]) == (0, [])
    assert stored(of_empty["DATABASE_URL"]) == [symbol]


@pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
def test_fill_gaps_of_the_settings(symbol: str, name: str, of_empty: dict[str, str], command: Run) -> None:
    asked = command("fill-gaps", SYMBOLS=f"{name},{symbol}", **of_empty)

    assert (asked.code, [job[0] for job in queued(of_empty["REDIS_URL"], FILL_GAP)]) == (0, [symbol])


@pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
def test_import_csv(symbol: str, name: str, of_empty: dict[str, str], command: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "ETHEUR_1.csv", [candle_line(0)])

    asked = command("import-csv", str(path), "--symbol", name, "--worker", **of_empty)
    outcome = command("import-csv", str(path), "--symbol", name)

    assert (asked.code, queued(of_empty["REDIS_URL"], IMPORT_CSV)) == (0, [([str(path)], name)])
    told, seam, remedy = outcome.err.splitlines()
    assert (outcome.code, told) == (0, "1 file(s) imported, 0 skipped, 0 refused; 1 candle(s) new, 0 replaced")
    assert seam.startswith(f"{symbol}: nothing is known from 2023-01-01 00:01Z to ")
    assert remedy.startswith(f"    kraken-history backfill {symbol} --from 2023-01-01T00:01:00Z --to ")
    assert stored(of_empty["DATABASE_URL"]) == [symbol]


@pytest.mark.parametrize(("symbol", "name"), [case for case in EVERY_NAME if "/" not in str(case.values[1])])
def test_import_csv_of_a_file_of_this_name(
    symbol: str, name: str, of_empty: dict[str, str], command: Run, tmp_path: Path
) -> None:
    outcome = command("import-csv", str(write(tmp_path / f"{name}_1.csv", [candle_line(0)])), **of_empty)

    assert (outcome.code, stored(of_empty["DATABASE_URL"])) == (0, [symbol])


@pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
def test_the_example_of_a_backtest(
    symbol: str, name: str, of_filled: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = backtest_example.main(
        ["--symbol", name, "--database-url", of_filled["DATABASE_URL"], "--slow", "3", "--fast", "2"]
    )

    told = capsys.readouterr().out.splitlines()
    assert code == 0
    assert told[0].startswith(f"{symbol}, candles of 1 min ")
    assert told[-2].startswith(f"{symbol}: ")


@pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
def test_the_example_of_a_paper_tester(
    symbol: str, name: str, of_filled: dict[str, str], capsys: pytest.CaptureFixture[str], in_folder: Path
) -> None:
    words = ["--symbols", name, "--no-gap-fill", "--seconds", "0.1", "--database-url", of_filled["DATABASE_URL"]]

    assert paper_tester.main(words) == 0
    assert f"following {symbol}, candles of 1 min" in capsys.readouterr().out


COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "candles": lambda name: ["candles", name],
    "export": lambda name: ["export", name],
    "backfill": lambda name: ["backfill", name],
    "backfill --pause": lambda name: ["backfill", name, "--pause"],
    "backfill --status": lambda name: ["backfill", name, "--status"],
    "fill-gaps": lambda name: ["fill-gaps", "--symbol", name],
    "import-csv": lambda name: ["import-csv", ".", "--symbol", name],
}


@pytest.mark.parametrize("name", ["", "BTC", "BTC/", "BTC-USDT"])
@pytest.mark.parametrize("which", COMMANDS)
@POSTGRESQL
def test_a_text_that_is_no_name_is_refused_before_anything_is_begun(
    which: str, name: str, command: Run, database_server: DatabaseServer, tmp_path: Path
) -> None:
    outcome = command(*COMMANDS[which](name))

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"kraken-history: expected BASE/QUOTE, such as BTC/USDT, got {name!r}\n"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["ETH/EUR", "ETHEUR"])
def test_only_a_command_that_asks_kraken_says_what_kraken_lists(
    name: str, of_filled: dict[str, str], command: Run, in_folder: Path
) -> None:
    of_database = [command(which, name, **of_filled).err for which in ("candles", "export")]
    of_kraken = [command(*COMMANDS[which](name), **of_filled).err for which in ("backfill", "fill-gaps")]

    held = f"the database holds nothing of {name!r}: expected one of AAPLx/USD, BTC/USD, BTC/USDT"
    assert of_database == [f"kraken-history: {held}\n"] * 2
    listed = f"unknown symbol {name!r}: Kraken lists no such pair; write BASE/QUOTE, as in BTC/USDT"
    assert of_kraken == [f"kraken-history: {listed}\n"] * 2
