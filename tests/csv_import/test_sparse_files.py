"""A pair that is traded every three hours costs no more per row as its file grows, and little more than a busy one."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from kraken_history.csv_import import Imported
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.store import Store
from tests.csv_import.conftest import Import
from tests.support.csv_files import candle_line, write
from tests.support.examples import make_trade

FEW, MANY = 500, 2_000
SPARSE, DENSE = 180, 1  # minutes between two rows
MOST_TIMES_A_WRITTEN_ROW = 3.0
"""A sparse row is a candle of most intervals, so that more is written for it. Per written candle it may cost so much.

Partitions and indexes of the time are the rest. Each refreshed window once wrote all marks anew: of 2,000 rows, that
was 71,000 bytes each, and of 8,000 rows 270,000.
"""

_WEEK = datetime(2022, 1, 3, tzinfo=UTC)  # before the files
_WAL = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"


async def bytes_per_candle(
    pool: asyncpg.Pool, import_csv: Import, path: Path, rows: int, step: int, symbol: str
) -> float:
    """Bytes of write-ahead log per stored candle, of any interval, from an import and its refresh."""
    write(path, [candle_line(step * n) for n in range(rows)])
    before = await pool.fetchval(_WAL)
    (outcome,) = await import_csv(path, symbol=symbol)
    await refresh(pool)
    written = await pool.fetchval(_WAL) - before
    assert isinstance(outcome, Imported)
    assert outcome.new_candles == rows
    candles = sum(
        [
            await pool.fetchval(f"SELECT count(*) FROM {view} WHERE symbol = $1", symbol)  # noqa: S608 — ours
            for view in ("candles", "candles_5m", "candles_15m", "candles_30m", "candles_1h", "candles_4h")
        ]
    )
    assert candles > (5 * rows if step == SPARSE else rows)
    return float(written / candles)


async def test_the_cost_of_a_row_does_not_grow_with_the_file(
    pool: asyncpg.Pool, import_csv: Import, tmp_path: Path
) -> None:
    await import_csv(_spread(tmp_path / "SOLUSD_1.csv"), symbol="SOL/USD")  # makes the partitions

    few = await bytes_per_candle(pool, import_csv, tmp_path / "ETHUSD_1.csv", FEW, SPARSE, "ETH/USD")
    many = await bytes_per_candle(pool, import_csv, tmp_path / "XBTUSD_1.csv", MANY, SPARSE, "BTC/USD")

    assert many < 1.5 * few


async def test_a_sparse_candle_costs_little_more_than_a_dense_one(
    pool: asyncpg.Pool, import_csv: Import, tmp_path: Path
) -> None:
    await import_csv(_spread(tmp_path / "SOLUSD_1.csv"), symbol="SOL/USD")

    dense = await bytes_per_candle(pool, import_csv, tmp_path / "ETHUSD_1.csv", MANY, DENSE, "ETH/USD")
    sparse = await bytes_per_candle(pool, import_csv, tmp_path / "XBTUSD_1.csv", MANY, SPARSE, "BTC/USD")

    assert sparse < MOST_TIMES_A_WRITTEN_ROW * dense


async def test_a_write_costs_the_same_beside_any_number_of_marks(
    pool: asyncpg.Pool, import_csv: Import, tmp_path: Path
) -> None:
    """Each write once wrote all marks of its symbol that no refresh had taken up yet."""
    store, path = Store(pool), tmp_path / "XBTUSDT_1.csv"
    await store.write([make_trade(1, _WEEK)])
    costs = []
    for rows in (FEW, 10 * FEW):
        write(path, [candle_line(SPARSE * n) for n in range(rows)])
        await import_csv(path)
        before = await pool.fetchval(_WAL)
        for hour in range(1, 40):
            await store.write([make_trade(rows + hour, _WEEK + hour * timedelta(hours=1, seconds=rows))])
        costs.append(await pool.fetchval(_WAL) - before)

    assert costs[1] < 3 * costs[0]


def _spread(path: Path) -> Path:
    """A row in every week of the other files."""
    return write(path, [candle_line(7 * 1440 * n) for n in range(SPARSE * MANY // (7 * 1440) + 2)])
