"""A pair that is traded every three hours costs no more per row as its file grows."""

from pathlib import Path

import asyncpg

from kraken_history.csv_import import Imported
from kraken_history.storing.aggregates import refresh
from tests.csv_import.conftest import Import
from tests.support.csv_files import candle_line

ROWS = 2_000
MOST_WAL_PER_ROW = 20_000
"""In bytes. About 3,000 are written. When each refreshed window wrote all marks anew, it was 71,000, and 270,000 with
four times as many rows."""

_WAL = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"


async def test_the_cost_of_a_row_does_not_grow_with_the_file(
    pool: asyncpg.Pool, import_csv: Import, tmp_path: Path
) -> None:
    path = tmp_path / "XBTUSDT_1.csv"
    path.write_text("".join(candle_line(180 * n) + "\n" for n in range(ROWS)))
    before = await pool.fetchval(_WAL)

    (outcome,) = await import_csv(path)
    await refresh(pool)

    written = await pool.fetchval(_WAL) - before
    assert isinstance(outcome, Imported)
    assert outcome.new_candles == ROWS
    assert await pool.fetchval("SELECT count(*) FROM candles_1h") == ROWS
    assert written < ROWS * MOST_WAL_PER_ROW
