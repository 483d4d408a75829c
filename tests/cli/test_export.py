"""``export`` to CSV and Parquet."""

import csv
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from pyarrow import parquet

from kraken_history.cli.candle_pages import pages
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalCandle
from tests.cli.samples import START, execute, store, trade
from tests.support.command import Run
from tests.support.servers import Background

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
FIELDS = list(HistoricalCandle.__struct_fields__)
END = START + timedelta(days=400)


@pytest.fixture
def filled_url(
    migrated_database_url: str, background: Background, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> str:
    """Ten minutes with a trade each, and one more after a year; commands run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    trades = [trade(n, 60 * n, price="0.000000100" if n == 1 else f"0.0000{n}") for n in range(1, 11)]
    background.run(store(migrated_database_url, [*trades, trade(11, 365 * 86_400)]))
    return migrated_database_url


async def candles(
    database_url: str, interval: int, start: datetime = START, end: datetime = END
) -> list[HistoricalCandle]:
    async with HistoricalDataProvider(database_url, 1, 1) as provider:
        return await provider.get_candles("BTC/USDT", interval, start - timedelta(days=7), end, gaps="ignore")


def csv_candles(text: str) -> list[HistoricalCandle]:
    rows = list(csv.DictReader(text.splitlines()))
    return [msgspec.convert([row[field] for field in FIELDS], HistoricalCandle, strict=False) for row in rows]


@pytest.mark.parametrize("interval", [1, 60, 45])
def test_csv_read_back_equals_the_records(interval: int, filled_url: str, background: Background, command: Run) -> None:
    outcome = command(
        "export",
        "btc/usdt",
        "--gaps",
        "ignore",
        "--interval",
        str(interval),
        "--to",
        END.isoformat(),
        DATABASE_URL=filled_url,
    )
    file = Path(f"BTC-USDT_{interval}.csv")
    expected = background.run(candles(filled_url, interval))

    assert (outcome.code, outcome.out) == (0, "")
    assert csv_candles(file.read_text()) == expected
    assert outcome.err == f"{len(expected)} candle(s) of BTC/USDT, {interval} min, written to {file.resolve()}\n"
    assert os.listdir() == [file.name]


def test_csv_is_what_the_candles_command_writes(filled_url: str, command: Run) -> None:
    shown = command("candles", "BTC/USDT", "--from", "2026-01-01", "--format", "csv", DATABASE_URL=filled_url)
    exported = command(
        *("export", "BTC/USDT", "--gaps", "ignore", "--from", "2026-01-01", "--to", END.isoformat(), "--output", "-"),
        DATABASE_URL=filled_url,
    )

    assert exported.out == shown.out
    assert ",0.0000001," in exported.out
    assert exported.err == "11 candle(s) of BTC/USDT, 1 min, written to standard output\n"


@pytest.mark.parametrize("interval", [1, 60])
def test_parquet_read_back_equals_the_records(
    interval: int, filled_url: str, background: Background, command: Run, tmp_path: Path
) -> None:
    file = tmp_path / "mine.parquet"
    outcome = command(
        *("export", "BTC/USDT", "--gaps", "ignore", "--interval", str(interval), "--to", END.isoformat()),
        *("--format", "parquet", "--output", str(file)),
        DATABASE_URL=filled_url,
    )
    table = parquet.read_table(file)

    assert outcome.code == 0
    assert [HistoricalCandle(**row) for row in table.to_pylist()] == background.run(candles(filled_url, interval))
    assert str(table.schema.field("open").type) == "decimal128(38, 18)"
    assert parquet.ParquetFile(file).metadata.row_group(0).column(3).compression == "ZSTD"


def test_the_name_of_the_file_says_the_format(filled_url: str, command: Run) -> None:
    """A file c.parquet held CSV."""
    for name in ("c.parquet", "c.csv", "c"):
        words = ("--to", END.isoformat(), "--output", name)
        assert command("export", "BTC/USDT", "--gaps", "ignore", *words, DATABASE_URL=filled_url).code == 0

    assert parquet.read_table("c.parquet").num_rows == 11
    assert len(csv_candles(Path("c.csv").read_text())) == 11
    assert Path("c").read_bytes() == Path("c.csv").read_bytes()


def test_only_what_is_closed_at_the_end_is_written(filled_url: str, background: Background, command: Run) -> None:
    first, last = START + timedelta(minutes=3), START + timedelta(minutes=8, seconds=30)
    command(
        "export",
        "BTC/USDT",
        "--gaps",
        "ignore",
        "--from",
        first.isoformat(),
        "--to",
        last.isoformat(),
        DATABASE_URL=filled_url,
    )

    minutes = [candle.timestamp.minute for candle in csv_candles(Path("BTC-USDT_1.csv").read_text())]

    assert minutes == [3, 4, 5, 6, 7]


def test_a_range_without_candles_makes_a_file_without_rows(filled_url: str, command: Run) -> None:
    for format_ in ("csv", "parquet"):
        outcome = command(
            *(
                "export",
                "BTC/USDT",
                "--gaps",
                "ignore",
                "--from",
                "2020-01-01",
                "--to",
                "2020-02-01",
                "--format",
                format_,
            ),
            DATABASE_URL=filled_url,
        )
        assert outcome.code == 0
        assert outcome.err.startswith("0 candle(s)")

    assert Path("BTC-USDT_1.csv").read_text() == ",".join(FIELDS) + "\n"
    assert parquet.read_table("BTC-USDT_1.parquet").num_rows == 0


def test_a_file_that_is_there_stays_unless_it_is_forced(filled_url: str, command: Run) -> None:
    file = Path("BTC-USDT_1.csv")
    file.write_text("mine")

    refused = command("export", "BTC/USDT", "--gaps", "ignore", DATABASE_URL=filled_url)
    before = file.read_text()
    forced = command(
        "export", "BTC/USDT", "--gaps", "ignore", "--force", "--to", END.isoformat(), DATABASE_URL=filled_url
    )

    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "--force" in refused.err
    assert before == "mine"
    assert forced.code == 0
    assert len(csv_candles(file.read_text())) == 11


def test_an_export_that_breaks_leaves_no_file(filled_url: str, background: Background, command: Run) -> None:
    background.run(
        execute(filled_url, "UPDATE candles SET volume = 123456789012345678901 WHERE timestamp > '2026-06-01'")
    )

    outcome = command(
        "export",
        "BTC/USDT",
        "--gaps",
        "ignore",
        "--format",
        "parquet",
        "--to",
        END.isoformat(),
        DATABASE_URL=filled_url,
    )

    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "expected numbers of at most 20 digits before the point" in outcome.err
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["DOGE/USD"], "expected one of BTC/USDT"),
        (["XBTUSD"], "expected one of BTC/USDT"),
        (["BTC/USDT", "--interval", "0"], "whole number of minutes"),
        (["BTC/USDT", "--from", "2026-02-01", "--to", "2026-01-01"], "reversed"),
        (["BTC/USDT", "--from", "9999-01-01"], "--from 9999-01-01T00:00:00Z must be before now\n"),
        (["BTC/USDT", "--format", "parquet", "--output", "-"], "--format csv"),
        (["BTC/USDT", "--output", "nowhere/x.csv"], "no folder"),
        (["BTC/USDT", "--output", "/dev/null", "--force"], "not a regular file"),
        (["BTC/USDT", "--output", "."], "not a regular file"),
        (["BTC/USDT", "--format", "csv", "--output", "c.parquet"], "use --format parquet"),
        (["BTC/USDT", "--format", "parquet", "--output", "c.CSV"], "use --format csv"),
    ],
)
def test_what_cannot_be_exported_is_one_line(options: list[str], words: str, filled_url: str, command: Run) -> None:
    outcome = command("export", *options, DATABASE_URL=filled_url)

    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert words in outcome.err
    assert os.listdir() == []


def test_where_nothing_is_stored_yet_nothing_is_written(
    migrated_database_url: str, command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    outcome = command("export", "BTC/USDT", "--gaps", "ignore", DATABASE_URL=migrated_database_url)

    assert (outcome.code, outcome.err) == (2, "kraken-history: nothing is stored yet: start `kraken-history up`\n")
    assert os.listdir() == []


def test_a_reader_that_leaves_early_is_no_error(migrated_database_url: str, background: Background) -> None:
    background.run(store(migrated_database_url, [trade(n, 60 * n) for n in range(3_000)]))
    words = ["-m", "kraken_history", "export", "BTC/USDT", "--gaps", "ignore", "--to", END.isoformat(), "--output", "-"]
    script = " ".join([sys.executable, *words, "| head -n 1; exit ${PIPESTATUS[0]}"])

    done = subprocess.run(
        ["bash", "-c", script],
        env={"DATABASE_URL": migrated_database_url, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ",".join(FIELDS) + "\n"


@pytest.mark.parametrize("start", [START, START + timedelta(minutes=7, seconds=1)])
def test_pages_join_without_cutting_a_bucket(start: datetime, database_server: object) -> None:
    end, width = datetime(2026, 3, 1, 0, 0, 5, tzinfo=UTC), timedelta(hours=1)

    found = list(pages(start, end, width, 100))

    assert (found[0][0], found[-1][1]) == (start, end)
    assert [stop for _, stop in found[:-1]] == [begin for begin, _ in found[1:]]
    assert all((stop.minute, stop.second) == (0, 0) for _, stop in found[:-1])
    assert all(stop - begin <= 100 * width for begin, stop in found)
    assert list(pages(datetime(9998, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC), timedelta(days=365), 100))


def test_without_a_range_the_file_has_the_candles_that_are_whole(
    migrated_database_url: str, background: Background, command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """History begins and ends within a minute: a default that refuses for that could never write a file."""
    monkeypatch.chdir(tmp_path)
    background.run(store(migrated_database_url, [trade(n, 60 * n + 20) for n in range(10)]))

    minutes = command("export", "BTC/USDT", DATABASE_URL=migrated_database_url)
    fives = command("export", "BTC/USDT", "--interval", "5")
    fives_anyway = command("export", "BTC/USDT", "--interval", "5", "--gaps", "ignore", "--output", "fives.csv")
    refused = command("export", "BTC/USDT", "--from", START.isoformat(), "--output", "refused.csv")

    assert (minutes.code, fives.code, fives_anyway.code, refused.code) == (0, 1, 0, 1), minutes.err + fives.err
    assert [candle.timestamp for candle in csv_candles(Path("BTC-USDT_1.csv").read_text())] == [
        START + n * timedelta(minutes=1) for n in range(1, 9)
    ]
    assert fives.err == (
        "kraken-history: no candle of BTC/USDT of 5 min is complete: the data begin at 2026-01-05 10:00Z. Wait for the"
        " first whole one, fetch older data with `kraken-history backfill BTC/USDT`, or add --gaps ignore\n"
    )
    assert not Path("BTC-USDT_5.csv").exists()
    assert len(csv_candles(Path("fives.csv").read_text())) == 2
    assert not Path("refused.csv").exists()
    assert "`kraken-history backfill BTC/USDT --from 2026-01-05T10:00:00Z --to 2026-01-05T10:00:20Z`" in refused.err


def test_padded_parquet_says_what_is_made_up(filled_url: str, command: Run) -> None:
    outcome = command(
        *("export", "BTC/USDT", "--from", "2026-01-05", "--to", "2026-01-05T10:30", "--gaps", "pad"),
        *("--output", "padded.parquet"),
        DATABASE_URL=filled_url,
    )

    assert outcome.code == 0, outcome.err
    made_up = parquet.read_table("padded.parquet")["is_made_up"].to_pylist()
    assert (made_up.count(False), made_up.count(True)) == (10, 19)


def test_of_several_symbols_one_that_is_not_complete_does_not_keep_the_others(
    migrated_database_url: str, background: Background, command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A symbol whose first minute was running once got a file without a candle, and one with a gap ended the rest."""
    monkeypatch.chdir(tmp_path)
    alone = msgspec.structs.replace(trade(1, 20), symbol="AAA/USD")
    torn = [msgspec.structs.replace(trade(n, 60 * n), symbol="BBB/USD") for n in (1, 2, 3, 9, 10, 11)]
    background.run(store(migrated_database_url, [alone, *torn, *(trade(n, 60 * n + 20) for n in range(10))]))

    outcome = command("export", "--all", DATABASE_URL=migrated_database_url)

    assert outcome.code == 1
    assert os.listdir() == ["BTC-USDT_1.csv"]
    no_candle, gap, written = outcome.err.splitlines()
    assert no_candle.startswith("kraken-history: no candle of AAA/USD of 1 min is complete")
    assert gap.startswith("kraken-history: BBB/USD: ")
    assert written.startswith("8 candle(s) of BTC/USDT")
