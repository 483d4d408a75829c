"""The Parquet files of an export, scanned by DuckDB and Polars as docs/adapters.md shows."""

from decimal import Decimal
from pathlib import Path

import pytest

from kraken_history.blocking import BlockingHistoricalDataProvider
from tests.adapters.conftest import END, START, SYMBOL
from tests.adapters.packages import package
from tests.support.command import Run


@pytest.fixture
def volume(filled: str, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Decimal:
    """Writes btc.parquet into the current folder; the volume of its candles."""
    monkeypatch.chdir(tmp_path)
    span = ("--from", START.isoformat(), "--to", END.isoformat())
    written = command("export", SYMBOL, *span, "--format", "parquet", "--output", "btc.parquet", DATABASE_URL=filled)
    assert written.code == 0, written.err
    with BlockingHistoricalDataProvider(filled, 1, 1) as history:
        return sum((candle.volume for candle in history.get_candles(SYMBOL, 1, START, END)), Decimal(0))


def test_duckdb_sums_without_rounding(volume: Decimal) -> None:
    duckdb = package("duckdb")
    query = Path(__file__).parents[2].joinpath("docs/adapters.md").read_text().split("```sql\n")[1].split("```")[0]

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.execute(query).fetchall()

    assert [found for _, found in rows] == [volume]


def test_polars_sums_without_rounding(volume: Decimal) -> None:
    import polars

    scan = polars.scan_parquet("btc.parquet").group_by_dynamic("timestamp", every="1d")
    daily = scan.agg(polars.col("volume").sum()).collect()

    assert daily["volume"].to_list() == [volume]
