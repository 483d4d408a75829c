"""How fast the archive is written, read and restored, each figure next to its limit, measured in the same run.

    python -m benchmarks.archive [--database-url URL --redis-url URL] [--days N] [--json FILE]

(a) One-minute candles of one symbol as Arrow with float64: from the archive, by the provider, freshness check included;
    by pyarrow alone from the same Parquet files, with its own casts to float64; from an uncompressed Feather file,
    memory-mapped and summed, so that every value is read; and from the database, as without an archive.
(b) Archiving the candles, next to a ``COPY … TO STDOUT`` of the same rows as text, discarded as it arrives.
(c) Restoring them into an empty database, next to a ``COPY … FROM STDIN`` of the same text into the same table.

Rounds of the figures of (a) alternate; medians are printed, in rows/s. (b) and (c) are measured once.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pyarrow
from pyarrow import compute, feather, parquet

from benchmarks.ingest import alternate
from benchmarks.read import _FILL, _NOTE, SYMBOL, YEAR_START, Results
from benchmarks.servers import Place, measured_servers
from kraken_history.archive.place import Folder
from kraken_history.archive.restoring import restore
from kraken_history.archive.writing import archive
from kraken_history.database.connections import create_pool
from kraken_history.provider import HistoricalDataProvider

_ROWS = "FROM candles WHERE symbol = 'BTC/USDT' ORDER BY timestamp"


async def measure(place: Place, days: int, rounds: int) -> Results:
    """All figures, in rows/s."""
    end = YEAR_START + timedelta(days=days)
    pool = await create_pool(place.database_url, min_size=1, max_size=3)
    weeks = [YEAR_START + timedelta(days=7 * n) for n in range(days // 7 + 1)]
    await pool.execute("SELECT ensure_partitions('candles', $1)", [*weeks, end])
    await pool.execute(_FILL, SYMBOL, YEAR_START, end)
    await pool.execute(_NOTE, [SYMBOL], YEAR_START, end)
    await pool.execute("VACUUM ANALYZE candles")
    rows = days * 1440
    with tempfile.TemporaryDirectory() as folder:
        files = Folder(Path(folder) / "archive")
        text = bytearray()

        async def keep(data: bytes) -> None:
            text.extend(data)

        results: Results = {"copy_out": rows / await _timed(pool.copy_from_query(f"SELECT * {_ROWS}", output=keep))}
        started = time.perf_counter()
        months = [month async for month in archive(pool, files, [SYMBOL])]
        results["archive"] = rows / (time.perf_counter() - started)
        results["months"] = len(months)
        results["bytes_per_row"] = sum(m.entry.objects["candles_1m"].bytes for m in months if m.entry) / rows
        results |= await _measure_reads(place, files, Path(folder), end=days, rounds=rounds)
        await pool.execute("TRUNCATE candles, data_sync_status, archived_months")
        started = time.perf_counter()
        async for _ in restore(pool, files):
            pass
        results["restore"] = rows / (time.perf_counter() - started)
        await pool.execute("TRUNCATE candles")

        async def given() -> AsyncIterator[bytes]:
            for at in range(0, len(text), 2**20):
                yield bytes(text[at : at + 2**20])

        results["copy_in"] = rows / await _timed(pool.copy_to_table("candles", source=given()))
    await pool.close()
    return results


async def _timed(work: "asyncio.Future[str] | object") -> float:
    started = time.perf_counter()
    await work  # type: ignore[misc]
    return time.perf_counter() - started


async def _measure_reads(place: Place, files: Folder, folder: Path, *, end: int, rounds: int) -> Results:
    span = YEAR_START, YEAR_START + timedelta(days=end)
    paths = sorted(files.folder.glob("candles_1m/*/*.parquet"))
    numbers = [f.name for f in parquet.ParquetFile(paths[0]).schema_arrow if pyarrow.types.is_decimal(f.type)]
    names = ["timestamp", *numbers, "trade_count", "source"]
    async with (
        HistoricalDataProvider(place.database_url, archive=str(files.folder)) as archived,
        HistoricalDataProvider(place.database_url) as plain,
    ):

        def reading(provider: HistoricalDataProvider) -> Callable[[], object]:
            async def read() -> float:
                started = time.perf_counter()
                table = await provider.get_candles_arrow(SYMBOL, 1, *span, numbers="float", gaps="ignore")
                return int(table.num_rows) / (time.perf_counter() - started)

            return read

        async def by_pyarrow() -> float:
            started = time.perf_counter()
            table = pyarrow.concat_tables(
                [parquet.read_table(path, columns=names, partitioning=None) for path in paths]
            )
            schema = pyarrow.schema(
                [(f.name, pyarrow.float64() if pyarrow.types.is_decimal(f.type) else f.type) for f in table.schema]
            )
            return int(table.cast(schema).num_rows) / (time.perf_counter() - started)

        table = await archived.get_candles_arrow(SYMBOL, 1, *span, numbers="float", gaps="ignore")
        feather.write_feather(table, str(folder / "year.feather"), compression="uncompressed")

        async def by_feather() -> float:
            started = time.perf_counter()
            mapped = feather.read_table(str(folder / "year.feather"), memory_map=True)
            for name in numbers:
                compute.sum(mapped[name])
            return int(mapped.num_rows) / (time.perf_counter() - started)

        return await alternate(
            rounds,
            archived=reading(archived),  # type: ignore[arg-type]
            pyarrow=by_pyarrow,
            feather=by_feather,
            database=reading(plain),  # type: ignore[arg-type]
        )


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database-url")
    parser.add_argument("--redis-url")
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    async with measured_servers(given.database_url, given.redis_url) as place:
        results = await measure(place, given.days, given.rounds)
    lines = json.dumps(results, indent=1)
    if given.json is not None:
        given.json.write_text(lines)
    print(lines)  # noqa: T201 — the result


if __name__ == "__main__":
    asyncio.run(_main())
