"""How fast Kraken's downloads are imported, next to a limit and to the usual way, measured in the same run.

    python -m benchmarks.csv_import [--database-url URL] [--csv FILE] [--rows N] [--json FILE]

Our figure is the whole import of a file of one-minute candles, from the disk to the commit: alone, out of a zip, and
again when its candles are stored already. The limit is a plain COPY of the same rows, prepared as text, into the same
table. ``copy_records_to_table`` of prepared records is measured too. The usual way is pandas: ``read_csv``,
``iterrows``, and ``executemany`` of ``INSERT … ON CONFLICT DO NOTHING``, here with a part of the rows.

The pandas figure needs the extra ``frames`` and is left out without it. Rounds of one figure alternate
with rounds of the others; medians are printed, and ratios of medians.
"""

import argparse
import asyncio
import importlib
import importlib.util
import os
import platform
import random
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.ingest import alternate
from benchmarks.lines import Line, Sizes
from benchmarks.servers import measured_servers
from kraken_history.csv_import import CandleReader, CsvFile, CsvImporter, Imported, found_files
from kraken_history.database.connections import create_pool
from kraken_history.runtime.telemetry import configure_logging
from kraken_history.storing.candle_text import COLUMNS, copy_text
from kraken_history.symbols import Pair

SYMBOL = "BTC/USDC"
START_S = 1_672_531_200  # 2023-01-01
NAIVE_SHARE = 2  # one row in this many: the usual way is slow

Results = dict[str, Any]


def write_candles(path: Path, count: int, *, seed: int = 1) -> None:
    """Write a file like Kraken's: a random walk of prices, with minutes without a trade."""
    rng = random.Random(seed)
    ticks, minute = 1_653_597, 0
    with path.open("w") as file:
        for _ in range(count):
            minute += rng.choice((1, 1, 1, 2, 5))
            prices = [ticks := max(ticks + rng.randint(-500, 500), 1_000) for _ in range(4)]
            open_, close = f"{prices[0] / 100:.2f}", f"{prices[-1] / 100:.2f}"
            high, low = f"{max(prices) / 100:.2f}", f"{min(prices) / 100:.2f}"
            volume = f"{rng.randint(1_000, 200_000_000) / 1e8:.8f}".rstrip("0")
            file.write(f"{START_S + 60 * minute},{open_},{high},{low},{close},{volume},{rng.randint(1, 40)}\n")


async def no_kraken() -> Iterable[Pair]:
    """Return no pairs: the symbol is given, so none are needed."""
    return ()


class Bench:
    """One file on one server."""

    def __init__(self, pool: asyncpg.Pool, path: Path, zipped: Path) -> None:
        self._pool = pool
        self._path = path
        self._zipped = zipped
        reader = CandleReader(path.name)
        file = CsvFile(path.name, path.stat().st_size, path)
        self._blocks = [copy_text(SYMBOL, reader.read(block), "csv") for block in file.blocks()]
        self._records = [_record(line) for block in self._blocks for line in block.decode().splitlines()]
        self.rows = reader.rows

    async def ours(self) -> float:
        """The import of a file."""
        await self._empty()
        return await self._import(self._path)

    async def out_of_zip(self) -> float:
        """The import of a file in a zip."""
        await self._empty()
        return await self._import(self._zipped)

    async def again(self) -> float:
        """The import of a file that is stored already."""
        return await self._import(self._path)

    async def _import(self, path: Path) -> float:
        started = time.perf_counter()
        with found_files([path]) as (files, _):
            importer = CsvImporter(self._pool, no_kraken, symbol=SYMBOL)
            (outcome,) = [outcome async for outcome in importer.import_files(files)]
        seconds = time.perf_counter() - started
        assert isinstance(outcome, Imported)
        assert await self._pool.fetchval("SELECT count(*) FROM candles") == self.rows
        return self.rows / seconds

    async def copy(self) -> float:
        """The limit: COPY of the same rows, written as text beforehand."""
        await self._empty()
        started = time.perf_counter()
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.copy_to_table("candles", source=self._text(), columns=COLUMNS)
        return self.rows / (time.perf_counter() - started)

    async def copy_records(self) -> float:
        """COPY of the same rows, encoded by the driver."""
        await self._empty()
        started = time.perf_counter()
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.copy_records_to_table("candles", records=self._records, columns=COLUMNS)
        return self.rows / (time.perf_counter() - started)

    async def naive(self) -> float:
        """The usual way with pandas."""
        pandas: Any = importlib.import_module("pandas")
        await self._empty()
        started = time.perf_counter()
        names = ["time", "open", "high", "low", "close", "volume", "trades"]
        frame = pandas.read_csv(self._path, header=None, names=names, nrows=self.rows // NAIVE_SHARE)
        rows = []
        for _, row in frame.iterrows():
            o, h, l, c, v = (Decimal(str(row[name])) for name in names[1:6])  # noqa: E741
            vwap = (h + l + c) / 3
            at = datetime.fromtimestamp(row["time"], UTC)
            rows.append((SYMBOL, at, 1, o, h, l, c, v, v * vwap, int(row["trades"]), vwap, "csv"))
        values = ", ".join(f"${n}" for n in range(1, len(COLUMNS) + 1))
        async with self._pool.acquire() as connection:
            await connection.executemany(
                f"INSERT INTO candles ({', '.join(COLUMNS)}) VALUES ({values}) ON CONFLICT DO NOTHING",  # noqa: S608
                rows,
            )
        return len(rows) / (time.perf_counter() - started)

    async def _text(self) -> AsyncIterator[bytes]:
        for block in self._blocks:
            yield block

    async def _empty(self) -> None:
        await self._pool.execute("TRUNCATE candles, data_sync_status, sync_keys")
        await self._pool.execute("CHECKPOINT")


def _record(line: str) -> tuple[Any, ...]:
    symbol, at, interval, *numbers, count, vwap, source = line.split("\t")
    prices = map(Decimal, numbers)
    return symbol, datetime.fromisoformat(at), int(interval), *prices, int(count), Decimal(vwap), source


async def measure(arguments: argparse.Namespace) -> Results:
    """Measure all figures."""
    with tempfile.TemporaryDirectory(prefix="kraken-history-benchmark-") as folder:
        path = arguments.csv
        if path is None:
            path = Path(folder) / "BTCUSDC_1.csv"
            write_candles(path, arguments.rows)
        zipped = Path(folder) / "all.zip"
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, f"master/{path.name}")
        # No Redis is needed. With a given database, any URL prevents an embedded Redis from being started.
        redis_url = arguments.database_url and "redis://127.0.0.1:0"
        async with (
            measured_servers(arguments.database_url, redis_url) as place,
            await create_pool(place.database_url, min_size=1, max_size=1) as pool,
        ):
            bench = Bench(pool, path, zipped)
            await bench.ours()  # makes the partitions
            figures = {
                "copy": bench.copy,
                "ours": bench.ours,
                "again": bench.again,
                "copy_records": bench.copy_records,
                "out_of_zip": bench.out_of_zip,
            }
            if importlib.util.find_spec("pandas") is not None:
                figures["naive"] = bench.naive
            medians = await alternate(arguments.rounds, **figures)
            return {
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "python": platform.python_version(),
                "processors": os.cpu_count(),
                "server": place.description,
                "rows": bench.rows,
                "rows_per_s": medians,
            }


def print_report(results: Results) -> None:
    """Print each figure next to the limit and the usual way."""
    console = Console()
    console.print(f"{results['server']}; {results['rows']:,} rows")
    medians = results["rows_per_s"]
    limit, naive = medians["copy"], medians.get("naive")
    table = Table("", "rows/s", "of COPY", "times pandas")
    names = {
        "copy": "COPY of ready text (limit)",
        "copy_records": "copy_records_to_table of ready records",
        "ours": "import of a file",
        "out_of_zip": "import out of a zip",
        "again": "the same file again, merged",
        "naive": "pandas iterrows + executemany",
    }
    for key, name in names.items():
        if key in medians:
            times = f"{medians[key] / naive:.1f}" if naive else ""
            table.add_row(name, f"{medians[key]:,.0f}", f"{medians[key] / limit:.2f}", times)
    console.print(table)
    if not naive:
        console.print("without pandas: uv run --all-extras python -m benchmarks.csv_import")


async def lines(sizes: Sizes) -> list[Line]:
    """The lines of the common table."""
    results = await measure(
        argparse.Namespace(
            database_url=sizes.database_url, csv=None, rows=sizes.of(200_000, least=5_000), rounds=sizes.rounds
        )
    )
    medians = results["rows_per_s"]
    names = {"ours": "import of a CSV file", "out_of_zip": "import out of a zip", "again": "the same file again"}
    return [
        Line(
            name,
            "rows/s",
            medians[key],
            medians["copy"],
            "COPY of ready text",
            medians.get("naive"),
            "pandas, executemany" if "naive" in medians else "",
        )
        for key, name in names.items()
    ]


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--database-url", help="a server that may be given a scratch database (default: embedded)")
    parser.add_argument(
        "--csv", type=Path, help="a file of one-minute candles, named like Kraken's (default: a generated one)"
    )
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the generated file (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/csv_import.json"))
    arguments = parser.parse_args()
    configure_logging("warning", as_json=False)
    results = asyncio.run(measure(arguments))
    print_report(results)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")


if __name__ == "__main__":
    main()
