"""``export`` of trades, of several symbols, and under names with an unknown ending."""

import csv
import io
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from pyarrow import parquet

from kraken_history.cli import export_trades
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalTrade
from tests.cli.samples import START, store, trade
from tests.support.command import Run
from tests.support.servers import Background

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
FIELDS = list(HistoricalTrade.__struct_fields__)
END = START + timedelta(days=400)
RANGE = ("--from", START.isoformat(), "--to", END.isoformat(), "--gaps", "ignore")


@pytest.fixture
def filled_url(
    migrated_database_url: str, background: Background, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> str:
    """Two symbols; commands run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    trades = [trade(n, 60 * n, price=f"10356{n % 10}.{n}0000") for n in range(1, 26)]
    other = [trade(n, n, symbol="ETH/USDT") for n in range(1, 4)]
    background.run(store(migrated_database_url, [*trades, *other]))
    return migrated_database_url


async def stored(database_url: str, symbol: str) -> Sequence[HistoricalTrade]:
    async with HistoricalDataProvider(database_url, 1, 1) as provider:
        return await provider.get_trades(symbol, START, END, gaps="ignore")


def test_csv_has_every_trade(filled_url: str, background: Background, command: Run) -> None:
    outcome = command("export", "xbtusdt", "--trades", *RANGE, DATABASE_URL=filled_url)
    file = Path("BTC-USDT_trades.csv")
    rows = list(csv.DictReader(io.StringIO(file.read_text())))

    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err == f"25 trade(s) of BTC/USDT written to {file.resolve()}\n"
    trades = [msgspec.convert([row[field] for field in FIELDS], HistoricalTrade, strict=False) for row in rows]
    assert trades == background.run(stored(filled_url, "BTC/USDT"))
    # REST writes five decimals, and WebSocket no zeros at the end: one file held both.
    assert [row["price"] for row in rows[:2]] == ["103561.1", "103562.2"]
    assert os.listdir() == [file.name]


def test_without_a_range_all_stored_trades_are_written_and_checked(filled_url: str, command: Run) -> None:
    """The newest trade proves no time, since others may share its instant; it is written nevertheless."""
    outcome = command("export", "BTC/USDT", "--trades", DATABASE_URL=filled_url)

    assert outcome.code == 0
    assert outcome.err.startswith("25 trade(s) of BTC/USDT written")


def test_a_trade_after_the_end_of_the_export_does_not_disturb_it(
    filled_url: str, background: Background, command: Run
) -> None:
    """The newest trade came after the command had begun, and the range behind it was empty: the command failed."""
    ahead = (datetime.now(UTC) - START).total_seconds() + 3600
    background.run(store(filled_url, [trade(26, ahead)]))

    outcome = command("export", "BTC/USDT", "--trades", DATABASE_URL=filled_url)

    assert outcome.code == 0
    assert outcome.err.startswith("25 trade(s) of BTC/USDT written")


def test_a_range_with_missing_trades_is_refused_unless_told_otherwise(filled_url: str, command: Run) -> None:
    span = ("--from", START.isoformat(), "--to", END.isoformat())
    refused = command("export", "BTC/USDT", "--trades", *span, DATABASE_URL=filled_url)
    padded = command("export", "BTC/USDT", "--trades", *span, "--gaps", "pad")

    assert (refused.code, refused.out, padded.code, padded.out) == (1, "", 2, "")
    assert "ignore" in refused.err
    assert "--gaps" in padded.err
    assert os.listdir() == []


def test_without_a_range_everything_from_the_oldest_to_the_newest_trade_is_written(
    filled_url: str, background: Background, command: Run
) -> None:
    outcome = command("export", "BTC/USDT", "--trades", DATABASE_URL=filled_url)
    rows = list(csv.DictReader(io.StringIO(Path("BTC-USDT_trades.csv").read_text())))

    assert outcome.code == 0, outcome.err
    assert [int(row["id"]) for row in rows] == list(range(1, 26))


def test_parquet_has_every_trade(
    filled_url: str, background: Background, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_trades, "PARQUET_ROWS", 10)
    outcome = command(*("export", "BTC/USDT", "--trades", *RANGE, "--output", "t.parquet"), DATABASE_URL=filled_url)
    table = parquet.read_table("t.parquet")

    assert outcome.code == 0
    assert [HistoricalTrade(**row) for row in table.to_pylist()] == background.run(stored(filled_url, "BTC/USDT"))
    assert parquet.ParquetFile("t.parquet").num_row_groups == 3
    assert str(table.schema.field("price").type) == "decimal128(38, 18)"


def test_a_range_without_trades_makes_a_file_without_rows(filled_url: str, command: Run) -> None:
    words = ("--trades", "--from", "2020-01-01", "--to", "2020-02-01", "--gaps", "ignore", "--format")
    for format_ in ("csv", "parquet"):
        assert command("export", "BTC/USDT", *words, format_, DATABASE_URL=filled_url).err.startswith("0 trade(s)")

    assert Path("BTC-USDT_trades.csv").read_text() == ",".join(FIELDS) + "\n"
    assert parquet.read_table("BTC-USDT_trades.parquet").schema.names == FIELDS


def test_trades_go_to_standard_output(filled_url: str, command: Run) -> None:
    outcome = command("export", "ETH/USDT", "--trades", *RANGE, "--output", "-", DATABASE_URL=filled_url)

    assert outcome.out.splitlines()[1] == "1,ETH/USDT,2026-01-05T10:00:01Z,100.1,0.0000015,buy,limit,"
    assert outcome.err == "3 trade(s) of ETH/USDT written to standard output\n"


@pytest.mark.parametrize("words", [("ETH/USDT", "BTC/USDT"), ("--all",), ("xbtusdt", "BTC/USDT", "ethusdt")])
def test_several_symbols_have_a_file_each(filled_url: str, command: Run, words: tuple[str, ...]) -> None:
    candles = command("export", *words, *RANGE, "--interval", "60", "--output", "a/b", DATABASE_URL=filled_url)
    trades = command("export", *words, *RANGE, "--trades", "--format", "parquet", DATABASE_URL=filled_url)

    assert (candles.code, trades.code) == (0, 0)
    assert sorted(os.listdir("a/b")) == ["BTC-USDT_60.csv", "ETH-USDT_60.csv"]
    assert sorted(os.listdir()) == ["BTC-USDT_trades.parquet", "ETH-USDT_trades.parquet", "a"]
    assert parquet.read_table("ETH-USDT_trades.parquet").num_rows == 3
    assert len(trades.err.splitlines()) == 2


def test_nothing_is_written_if_one_of_the_files_exists(filled_url: str, command: Run) -> None:
    Path("ETH-USDT_1.csv").write_text("mine")

    refused = command("export", "--all", *RANGE, DATABASE_URL=filled_url)
    before = sorted(os.listdir())
    forced = command("export", "--all", *RANGE, "--force", DATABASE_URL=filled_url)

    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert before == ["ETH-USDT_1.csv"]
    assert forced.code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("BTC/USDT", "--output", "x.feather"), "expected a file name that ends in .csv or .parquet, got x.feather"),
        (("BTC/USDT", "--trades", "--output", "x.csv.gz"), "expected a file name that ends in .csv or .parquet"),
        ((), "expected symbols or --all"),
        (("BTC/USDT", "--all"), "expected symbols or --all"),
        (("BTC/USDT", "ETH/USDT", "--output", "-"), "expected a folder with --output for several symbols, got -"),
        (("--all", "--output", "x.parquet"), "several symbols, got x.parquet: give the format by --format"),
        (("BTC/USDT", "FOO/BAR"), "FOO/BAR"),
        (("BTC/USDT", "--trades", "--format", "parquet", "--output", "-"), "cannot be written to standard output"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(
    filled_url: str, command: Run, words: tuple[str, ...], told: str
) -> None:
    outcome = command("export", *words, DATABASE_URL=filled_url)

    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert told in outcome.err
    assert os.listdir() == []


def test_a_format_that_is_asked_for_may_have_any_name(filled_url: str, command: Run) -> None:
    outcome = command("export", "BTC/USDT", *RANGE, "--format", "csv", "--output", "x.txt", DATABASE_URL=filled_url)

    assert outcome.code == 0
    assert Path("x.txt").read_text().startswith("symbol,")


def test_trades_have_no_interval(filled_url: str, command: Run) -> None:
    outcome = command("export", "BTC/USDT", "--trades", "--interval", "5m", DATABASE_URL=filled_url)

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "kraken-history: expected --interval or --trades, got both: trades have no interval\n"
