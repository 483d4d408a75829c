"""Inputs that once failed or stumbled, with their right values."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest

from kraken_history.csv_import import Imported, Skipped
from kraken_history.provider import HistoricalDataProvider
from tests.csv_import.conftest import Import
from tests.support.contents import stored_candles, sync_status
from tests.support.csv_files import write, write_zip

MINUTE = timedelta(minutes=1)


async def only_import(import_csv: Import, *paths: Path, symbol: str | None = None) -> Imported:
    (outcome,) = await import_csv(*paths, symbol=symbol)
    assert isinstance(outcome, Imported)
    return outcome


async def test_a_tokenized_stock_keeps_its_letters(
    cases: Path, migrated_database_url: str, pool: asyncpg.Pool, import_csv: Import
) -> None:
    outcome = await only_import(import_csv, cases / "xstocks/AAPLxUSD_1.csv", symbol="AAPLx/USD")

    async with HistoricalDataProvider(migrated_database_url) as provider:
        candles = await provider.get_candles("AAPLx/USD", 1, outcome.start, outcome.end, gaps="ignore")
    assert [candle.symbol for candle in candles] == ["AAPLx/USD"] * 2


@pytest.mark.parametrize("symbol", ["BTC/USD", None])
async def test_a_file_may_name_its_quarter(
    cases: Path, pool: asyncpg.Pool, import_csv: Import, symbol: str | None
) -> None:
    """The year was taken for an interval: "2026 minutes"."""
    outcome = await only_import(import_csv, cases / "names/XBTUSD_1_Q1_2026.csv", symbol=symbol)

    (stored,) = await stored_candles(pool)
    assert (outcome.symbol, outcome.candles) == ("BTC/USD", 1)
    assert (stored.candle.symbol, stored.candle.close, stored.candle.trade_count) == ("BTC/USD", Decimal("87505.5"), 9)


@pytest.mark.parametrize("place", ["folder", "zip"])
async def test_a_quarter_may_be_in_the_name_of_a_folder_or_zip_too(
    cases: Path, tmp_path: Path, import_csv: Import, place: str
) -> None:
    content = (cases / "names/XBTUSD_1_Q1_2026.csv").read_bytes()
    path = tmp_path / "Kraken_OHLCVT_Q1_2026"
    if place == "folder":
        path.mkdir()
        (path / "XBTUSD_1_Q1_2026.csv").write_bytes(content)
    else:
        path = write_zip(tmp_path / "Kraken_OHLCVT_Q1_2026.zip", {"Q1_2026/XBTUSD_1_Q1_2026.csv": content})

    outcome = await only_import(import_csv, path)

    assert (outcome.symbol, outcome.candles) == ("BTC/USD", 1)


@pytest.mark.parametrize("given", ["", "Kraken_OHLCVT_Full_2026Q2.zip.part00"])
async def test_the_full_archive_is_read_in_its_parts(cases: Path, import_csv: Import, given: str) -> None:
    outcomes = await import_csv(cases / "split-zip" / given)

    imported = {outcome.symbol: outcome.candles for outcome in outcomes if isinstance(outcome, Imported)}
    assert imported == {"1INCH/USD": 1, "LUNA2/USD": 1, "BTC/USD": 2}
    assert [type(outcome) for outcome in outcomes if not isinstance(outcome, Imported)] == [Skipped]


async def test_a_quiet_minute_may_be_written_with_zeros(
    cases: Path, migrated_database_url: str, pool: asyncpg.Pool, import_csv: Import
) -> None:
    """The whole file was refused at line 4."""
    path = cases / "quiet-minute-zero_XBTEUR_1.csv"

    outcome = await only_import(import_csv, path, symbol="BTC/EUR")

    quiet = datetime(2024, 5, 1, 0, 3, tzinfo=UTC)
    assert (outcome.rows, outcome.candles, outcome.new_candles) == (5, 4, 4)
    assert quiet not in {stored.candle.timestamp for stored in await stored_candles(pool)}
    async with HistoricalDataProvider(migrated_database_url) as provider:
        coverage = await provider.get_coverage("BTC/EUR", outcome.start, outcome.end)
        around_it = await provider.get_coverage("BTC/EUR", quiet, quiet + MINUTE)
    assert coverage.is_complete
    assert around_it.duration("quiet") == MINUTE


async def test_quiet_minutes_may_begin_and_end_a_file_and_prove_themselves(
    tmp_path: Path, migrated_database_url: str, pool: asyncpg.Pool, import_csv: Import
) -> None:
    lines = [
        "1714521600,0,0,0,0,0,0",
        "1714521660,60005.50,60020.00,60000.00,60012.25,0.2500,8",
        "1714521720,60012.25,60012.25,60012.25,60012.25,0.00000000,0",
    ]
    outcome = await only_import(import_csv, write(tmp_path / "XBTEUR_1.csv", lines))

    status = await sync_status(pool, "BTC/EUR", "candles_1m")
    async with HistoricalDataProvider(migrated_database_url) as provider:
        coverage = await provider.get_coverage("BTC/EUR", outcome.start, outcome.end)
    assert outcome.end - outcome.start == 3 * MINUTE
    assert coverage.is_complete
    assert coverage.duration("quiet") == 2 * MINUTE
    assert status is not None
    assert status["oldest_timestamp"] == status["newest_timestamp"] == outcome.start + MINUTE


async def test_a_file_of_quiet_minutes_only_proves_them(tmp_path: Path, pool: asyncpg.Pool, import_csv: Import) -> None:
    lines = ["1714521600,1,1,1,1,0,0", "1714521660,1,1,1,1,0,0"]
    path = write(tmp_path / "XBTEUR_1.csv", lines)

    outcomes = [await only_import(import_csv, path), await only_import(import_csv, path)]

    status = await sync_status(pool, "BTC/EUR", "candles_1m")
    assert [(outcome.rows, outcome.candles) for outcome in outcomes] == [(2, 0)] * 2
    assert status is not None
    assert (status["total_records"], status["oldest_timestamp"]) == (0, None)
    assert [(each.lower, each.upper) for each in status["time_ranges"]] == [(outcomes[0].start, outcomes[0].end)]


async def test_time_and_sales_of_dogecoin_become_its_minutes(
    cases: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    outcome = await only_import(import_csv, cases / "XDGEUR.csv")

    candles = [stored.candle for stored in await stored_candles(pool)]
    assert (outcome.symbol, outcome.rows) == ("DOGE/EUR", 3)
    assert [(candle.timestamp, candle.open, candle.close, candle.volume) for candle in candles] == [
        (datetime(2023, 11, 14, 22, 13, tzinfo=UTC), Decimal("0.0712"), Decimal("0.0713"), Decimal("150.75")),
        (datetime(2023, 11, 14, 22, 14, tzinfo=UTC), Decimal("0.0711"), Decimal("0.0711"), Decimal(10)),
    ]
