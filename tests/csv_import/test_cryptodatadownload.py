"""CryptoDataDownload's files of Kraken: minutes are imported, and hours and days as candles without minutes."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest

from kraken_history.csv_import import CsvError, CsvFile, Imported, cryptodatadownload, found_files
from kraken_history.csv_import.cryptodatadownload import TurnedFile, turned
from kraken_history.csv_import.extent import find_extent, reader_of
from tests.csv_import.conftest import Import
from tests.support.contents import everything, stored_candles
from tests.support.csv_files import START_S, write, write_zip

SITE = "https://www.CryptoDataDownload.com"
HEADER = "unix,date,symbol,open,high,low,close,Volume BTC,Volume USD,tradecount"


def line(minute: int, *, symbol: str = "BTC/USD", volume: str = "1.25", trades: str = ",7", zeros: str = "") -> str:
    prices = f"100.0,102.0,99.0,{100 + minute % 2}.5"
    return f"{START_S + 60 * minute}{zeros},2023-01-01 00:00:00,{symbol},{prices},{volume},125.5{trades}"


def newest_first(minutes: range) -> list[str]:
    return [line(minute) for minute in reversed(minutes)]


async def only(import_csv: Import, path: Path, symbol: str | None = None) -> Imported:
    (outcome,) = await import_csv(path, symbol=symbol)
    assert isinstance(outcome, Imported), outcome
    return outcome


async def reason(import_csv: Import, path: Path, symbol: str | None = None) -> str:
    (outcome,) = await import_csv(path, symbol=symbol)
    assert isinstance(outcome, CsvError), outcome
    return str(outcome).removeprefix(str(path))


def as_turned(path: Path) -> TurnedFile:
    with found_files([path]) as (files, _):
        return turned(files[0], any_pair=False)


@pytest.mark.parametrize("place", ["alone", "zip"])
async def test_a_file_of_minutes_is_imported(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(cryptodatadownload, "_BLOCK", 1_000)
    lines = [SITE, HEADER, *newest_first(range(300))]
    if place == "alone":
        path = write(tmp_path / "Kraken_BTCUSD_2023_minute.csv", lines, newline="\r\n")
    else:
        path = write_zip(tmp_path / "a.zip", {"Kraken_BTCUSD_minute.csv": "".join(f"{x}\n" for x in lines).encode()})

    outcome = await only(import_csv, path)

    candles = [stored.candle for stored in await stored_candles(pool)]
    assert (outcome.symbol, outcome.rows, outcome.candles) == ("BTC/USD", 300, 300)
    assert outcome.start == datetime(2023, 1, 1, tzinfo=UTC)
    assert [candle.timestamp.timestamp() for candle in candles] == [START_S + 60 * minute for minute in range(300)]
    assert [str(candle.close) for candle in candles] == ["100.5", "101.5"] * 150
    assert {(candle.volume, candle.trade_count) for candle in candles} == {(Decimal("1.25"), 7)}


async def test_times_may_be_in_milliseconds_and_the_number_of_trades_may_be_missing(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    """The volume proves one trade; any other candle of the minute that counts more stands in its place."""
    lines = [line(2, trades="", zeros="000"), line(1, volume="0.0", trades="", zeros="000"), line(0, trades="")]
    path = write(tmp_path / "Kraken_BTCUSD_minute.csv", [SITE, HEADER.removesuffix(",tradecount"), *lines])

    outcome = await only(import_csv, path)

    assert (outcome.rows, outcome.candles) == (3, 2)
    assert [stored.candle.trade_count for stored in await stored_candles(pool)] == [1, 1]


async def test_the_symbol_that_is_given_wins_and_otherwise_the_column_counts(
    tmp_path: Path, import_csv: Import
) -> None:
    path = write(tmp_path / "Kraken_XRPEUR_minute.csv", [SITE, HEADER, line(1), line(0)])

    assert (await only(import_csv, path)).symbol == "BTC/USD"
    assert (await only(import_csv, path, "SOL/USD")).symbol == "SOL/USD"


async def test_a_symbol_that_only_kraken_could_confirm_counts_as_written(tmp_path: Path, import_csv: Import) -> None:
    path = write(tmp_path / "Kraken_FOOBAR_minute.csv", [SITE, HEADER, line(1, symbol="FOO/BAR")])

    assert (await only(import_csv, path)).symbol == "FOO/BAR"


def test_days_are_parsed_whole(cases: Path) -> None:
    series = as_turned(cases / "Kraken_BTCUSD_d.csv")
    extent = find_extent(series, series.content)
    reader = reader_of(series, series.content)

    candles = [reader.read(block) for block in series.blocks()]

    assert (series.content.pair, series.content.interval_minutes) == ("BTC/USD", 1440)
    assert (extent.first, extent.last) == (datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 6, tzinfo=UTC))
    assert [time for each in candles for time in each.times] == [1704153600 + 86_400 * day for day in range(5)]
    assert candles[0].closes == ["42500.3"] * 5
    assert candles[0].trade_counts == ["4567"] * 5


@pytest.mark.parametrize("name", ["Kraken_BTCUSD_1h.csv", "mine.csv"])
async def test_hours_are_known_by_their_times(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import, name: str
) -> None:
    path = write(tmp_path / name, [SITE, HEADER, *[line(60 * hour) for hour in (5, 3, 2)]])

    outcome = await only(import_csv, path, "BTC/USD")

    assert (outcome.interval_minutes, outcome.candles, outcome.end - outcome.start) == (60, 3, timedelta(hours=4))
    assert await pool.fetchval("SELECT count(*) FROM longer_candles WHERE interval_minutes = 60") == 3


BAD = {
    "the oldest first": ([line(0), line(1)], ":4: time 1672531260 must be before the time of the previous line"),
    "two symbols": ([line(2), line(1), line(0, symbol="ETH/USD")], ":5: expected the symbol of the lines before"),
    "a column too few": ([line(2), line(1)[:-2]], ":4: expected 10 columns, got 9"),
    "a price that is none": ([line(3), line(2).replace("99.0", "x"), line(1)], ":4: low 'x' is not a number"),
    "a low above the rest": ([line(3), line(2), line(1).replace("99.0", "200")], ":5: low and high do not enclose"),
    "a date": ([line(1), line(0).replace(str(START_S), "2023-01-01")], ":4: time '2023-01-01' is not a unix time"),
    "nothing": ([], ": the file has no rows"),
    "hours in a file of minutes": ([line(120), line(60)], ": expected times 1 minute(s) apart, as the name says"),
}


@pytest.mark.parametrize(("lines", "told"), BAD.values(), ids=BAD)
async def test_a_file_that_is_not_right_is_refused_with_its_line(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import, lines: list[str], told: str
) -> None:
    path = write(tmp_path / "Kraken_BTCUSD_minute.csv", [SITE, HEADER, *lines])

    assert (await reason(import_csv, path)).startswith(told)
    assert await everything(pool) == ([], [], [])


@pytest.mark.parametrize(("name", "symbol"), [("Binance_BTCUSDT_minute.csv", "BTC/USDT"), ("mine.csv", None)])
async def test_files_of_other_exchanges_are_refused(
    tmp_path: Path, import_csv: Import, name: str, symbol: str | None
) -> None:
    path = write(tmp_path / name, [SITE, HEADER, line(1), line(0)])

    assert "expected a name like Kraken_BTCUSD_minute.csv" in await reason(import_csv, path, symbol)


def test_the_file_is_turned_around_whatever_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "Kraken_BTCUSD_minute.csv", [SITE, HEADER, *newest_first(range(50))])
    series = as_turned(path)
    expected = b"".join(series.blocks())

    for size in (64, 100, 1_000, 3_333):
        monkeypatch.setattr(cryptodatadownload, "_BLOCK", size)
        assert b"".join(series.blocks()) == expected
    assert expected.count(b"\n") == 50
    assert isinstance(series.file, CsvFile)
