"""Files of hours and days enter the candles that have no minutes below them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from kraken_history.csv_import import CsvError, Imported
from kraken_history.provider import HistoricalDataProvider
from tests.csv_import.conftest import Import
from tests.support.csv_files import write

DAY = timedelta(days=1)
JANUARY = datetime(2024, 1, 1, tzinfo=UTC)


def day_line(day: int, *, count: int = 100, volume: str = "2.5") -> str:
    """A day: time, open 100, high 110, low 90, close 105, volume, trades."""
    stamp = int((JANUARY + day * DAY).timestamp())
    return f"{stamp},100.0,110.0,90.0,105.0,{volume},{count}"


async def test_days_of_cryptodatadownload_are_daily_candles(
    cases: Path, migrated_database_url: str, import_csv: Import
) -> None:
    """They were refused: there was no place for candles without minutes."""
    (outcome,) = await import_csv(cases / "Kraken_BTCUSD_d.csv")

    first, last = datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 7, tzinfo=UTC)
    async with HistoricalDataProvider(migrated_database_url, pool_min_size=1, pool_max_size=1) as history:
        candles = await history.get_candles("BTC/USD", 1440, first, last)
        coverage = await history.get_coverage("BTC/USD", first, last, 1440)
        minutes = await history.get_coverage("BTC/USD", first, last)
    assert isinstance(outcome, Imported)
    assert (outcome.symbol, outcome.interval_minutes, outcome.new_candles) == ("BTC/USD", 1440, 5)
    assert (outcome.start, outcome.end) == (first, last)
    assert [candle.timestamp for candle in candles] == [first + n * DAY for n in range(5)]
    assert {(candle.source, candle.vwap_is_approximate, candle.trade_count) for candle in candles} == {
        ("csv", True, 4567)
    }
    assert coverage.duration("exchange") == 5 * DAY
    assert minutes.duration("missing") == 5 * DAY


async def test_a_file_of_krakens_days_alone_is_imported_and_again_changes_nothing(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    path = write(tmp_path / "XBTUSDT_1440.csv", [day_line(0), day_line(1, count=0, volume="0"), day_line(3)])

    (first,), (second,) = await import_csv(path), await import_csv(path)

    assert isinstance(first, Imported)
    assert isinstance(second, Imported)
    assert (first.new_candles, second.new_candles, second.replaced_candles) == (2, 0, 0)
    assert (first.start, first.end) == (JANUARY, JANUARY + 4 * DAY)
    rows = await pool.fetch("SELECT timestamp, source::text, trade_count FROM longer_candles ORDER BY timestamp")
    assert [tuple(row) for row in rows] == [(JANUARY, "csv", 100), (JANUARY + 3 * DAY, "csv", 100)]
    covered = await pool.fetchval("SELECT time_ranges FROM data_sync_status WHERE data_type = 'candles_1440m'")
    assert [(each.lower, each.upper) for each in covered] == [(JANUARY, JANUARY + 4 * DAY)]


async def test_a_day_that_has_not_ended_is_left_out(tmp_path: Path, pool: asyncpg.Pool, import_csv: Import) -> None:
    """A download contains the candle that was running, with the trades of its first hours only."""
    today = (datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - JANUARY) // DAY

    (outcome,) = await import_csv(write(tmp_path / "XBTUSDT_1440.csv", [day_line(today - 1), day_line(today)]))

    assert isinstance(outcome, Imported)
    assert (outcome.rows, outcome.candles) == (2, 1)
    assert await pool.fetchval("SELECT max(timestamp) FROM longer_candles") == JANUARY + (today - 1) * DAY


async def test_a_bad_line_refuses_the_file(tmp_path: Path, pool: asyncpg.Pool, import_csv: Import) -> None:
    (outcome,) = await import_csv(write(tmp_path / "XBTUSDT_1440.csv", [day_line(0), "1704153601,1,1,1,1,1,1"]))

    assert isinstance(outcome, CsvError)
    assert await pool.fetchval("SELECT count(*) FROM longer_candles") == 0
