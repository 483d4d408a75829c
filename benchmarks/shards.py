"""How several consumers share the streams: aggregate throughput by number of consumers and of shards.

    python -m benchmarks.shards [--commit-ms 20] [--before CHECKOUT] [--json FILE]

Entries of sixteen symbols, spread evenly over the shards, are published at once, and the time until the last trade is
committed is measured, and how many jobs the consumers queued to heal holes that are none. With ``--commit-ms`` each
flush of the WAL takes so long, as on a disk or with a replica that is slow: a library that is loaded into PostgreSQL
delays ``fdatasync``, which it calls for the WAL alone. This needs a C compiler and Linux.

With ``--before``, rounds of this checkout alternate with rounds of another one, on the same servers.
"""

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import asyncpg
import msgspec
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from benchmarks.lines import Line, Sizes
from benchmarks.servers import Place, measured_servers
from benchmarks.workload import START, make_trades
from kraken_history.database.connections import create_pool
from kraken_history.records import HistoricalTrade
from kraken_history.storing.store import Store
from kraken_history.stream import wire

HERE = Path(__file__).resolve().parents[1]
SYMBOLS_A_SHARD = 4
MOST_SHARDS = 4

_SLOW_FLUSH = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int fdatasync(int file) {
    struct timespec delay = {0, DELAY_MS * 1000000L};
    nanosleep(&delay, 0);
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file);
}
"""


class Figure(msgspec.Struct, frozen=True):
    """Medians of one number of consumers and shards, in one checkout."""

    checkout: str
    consumers: int
    shards: int
    trades_per_s: float
    healing_jobs: float


def balanced_symbols() -> list[str]:
    """Symbols of which each shard has the same number, whether there are 1, 2 or 4 shards."""
    shards: dict[int, list[str]] = {shard: [] for shard in range(MOST_SHARDS)}
    number = 0
    while any(len(symbols) < SYMBOLS_A_SHARD for symbols in shards.values()):
        symbol = f"S{number}/USD"
        if len(of_shard := shards[wire.shard_of(symbol, MOST_SHARDS)]) < SYMBOLS_A_SHARD:
            of_shard.append(symbol)
        number += 1
    return sorted(symbol for symbols in shards.values() for symbol in symbols)


def make_entries(symbols: Sequence[str], trades: int, entry_trades: int) -> list[tuple[str, wire.Fields]]:
    """Encoded entries by symbol, in the order in which a producer publishes them."""
    walk = make_trades(entry_trades)
    prices = [trade.price for trade in walk]
    entries = []
    for first in range(1, trades // len(symbols) + 1, entry_trades):
        for symbol in symbols:
            group = [
                HistoricalTrade(
                    first + at, symbol, START + (first + at) * (_SECOND / 10), price, Decimal("0.5"), "buy", "limit"
                )
                for at, price in enumerate(prices)
            ]
            entries.append((symbol, wire.encode(group)))
    return entries


_SECOND = datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC) - datetime(2026, 1, 1, tzinfo=UTC)


@contextmanager
def slow_flushes(delay_ms: int) -> Iterator[None]:
    """Servers that are started meanwhile take so long for each ``fdatasync``."""
    if not delay_ms:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="slow-flush-") as folder:
        os.chmod(folder, 0o755)  # noqa: S103 — PostgreSQL may run as another account
        source, library = Path(folder) / "slow.c", Path(folder) / "slow.so"
        source.write_text(_SLOW_FLUSH)
        command = ["cc", "-shared", "-fPIC", f"-DDELAY_MS={delay_ms}", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True)
        os.environ["LD_PRELOAD"] = str(library)
        try:
            yield
        finally:
            os.environ.pop("LD_PRELOAD", None)


@asynccontextmanager
async def servers(commit_ms: int) -> AsyncIterator[Place]:
    """Embedded servers whose commits take so long."""
    with slow_flushes(commit_ms):
        async with measured_servers(None, None) as place:
            os.environ.pop("LD_PRELOAD", None)
            yield place


async def flush_ms(place: Place) -> float:
    """Median time of a commit that writes one row, in ms."""
    connection = await asyncpg.connect(place.database_url)
    await connection.execute("CREATE TEMP TABLE nothing (a int); CREATE TABLE one_row AS SELECT 1 AS a")
    times = []
    for _ in range(9):
        started = time.perf_counter()
        await connection.execute("UPDATE one_row SET a = a + 1")
        times.append(1000 * (time.perf_counter() - started))
    await connection.execute("DROP TABLE one_row")
    await connection.close()
    return statistics.median(times)


def start_consumer(checkout: Path, place: Place, name: str, shards: int, batch: int) -> subprocess.Popen[bytes]:
    """A consumer's process, with the code of a checkout."""
    environment = {
        "DATABASE_URL": place.database_url,
        "REDIS_URL": place.redis_url,
        "STREAM_SHARDS": str(shards),
        "CONSUMER_NAME": name,
        "BATCH_MAX_ROWS": str(batch),
        "LOG_LEVEL": "error",
        "PYTHONPATH": f"{checkout / 'src'}{os.pathsep}{checkout}",
    }
    return subprocess.Popen([sys.executable, "-m", "consumers"], cwd=checkout, env=os.environ | environment)


async def measure_once(
    checkout: Path,
    place: Place,
    redis: Redis,
    pool: asyncpg.Pool,
    entries: Sequence[tuple[str, wire.Fields]],
    arguments: argparse.Namespace,
    consumers: int,
    shards: int,
) -> tuple[float, int]:
    """Trades per second, and the number of healing jobs that were queued."""
    await pool.execute("TRUNCATE trades, candles, data_sync_status, sync_keys, unheld_ids, absent_ids")
    await pool.execute("CHECKPOINT")
    await redis.flushall()
    total = len(entries) * arguments.entry
    processes = [start_consumer(checkout, place, f"c{n}", shards, arguments.batch) for n in range(consumers)]
    try:
        while len([key async for key in redis.scan_iter("kraken:health:consumer:*")]) < consumers:  # noqa: ASYNC110 — as below
            await asyncio.sleep(0.05)
        await asyncio.sleep(5.0)  # for the consumers to share the streams
        started = time.perf_counter()
        for at in range(0, len(entries), 200):
            async with redis.pipeline(transaction=False) as pipeline:
                for symbol, fields in entries[at : at + 200]:
                    pipeline.xadd(wire.trades_stream(wire.shard_of(symbol, shards)), fields)
                await pipeline.execute()
        while await pool.fetchval(_TOTAL) < total:  # noqa: ASYNC110 — the consumers are other processes
            await asyncio.sleep(0.02)
        seconds = time.perf_counter() - started
        await asyncio.sleep(0.5)
        jobs = int(await redis.zcard("kraken:jobs"))
        assert await pool.fetchval("SELECT count(*) FROM trades") == total
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    return total / seconds, jobs


_TOTAL = "SELECT coalesce(sum(total_records), 0) FROM data_sync_status WHERE data_type = 'trades'"


async def measure(arguments: argparse.Namespace) -> tuple[str, list[Figure]]:
    """Measure all numbers of consumers and shards, checkouts in turn."""
    checkouts = {"now": HERE} | ({"before": arguments.before.resolve()} if arguments.before else {})
    entries = make_entries(balanced_symbols(), arguments.trades, arguments.entry)
    figures = []
    async with servers(arguments.commit_ms) as place:
        redis: Redis = Redis.from_url(place.redis_url)
        pool = await create_pool(place.database_url, min_size=1, max_size=2)
        async with redis, pool:
            commit = await flush_ms(place)
            async with pool.acquire() as connection:
                trades = [t for _, fields in entries[:: len(entries) // 8] for t in wire.decode_trades(_bytes(fields))]
                await Store(pool).ensure_partitions(connection, trades, ())
            for shards in arguments.shards:
                for consumers in arguments.consumers:
                    measured: dict[str, list[tuple[float, int]]] = {name: [] for name in checkouts}
                    for _ in range(arguments.rounds):
                        for name, checkout in checkouts.items():
                            measured[name].append(
                                await measure_once(checkout, place, redis, pool, entries, arguments, consumers, shards)
                            )
                    for name, rounds in measured.items():
                        speed, jobs = (statistics.median(values) for values in zip(*rounds, strict=True))
                        figures.append(Figure(name, consumers, shards, speed, jobs))
    return f"{place.description}; a commit takes {commit:.1f} ms; {os.cpu_count()} processors", figures


def _bytes(fields: wire.Fields) -> dict[bytes, bytes]:
    return {k.encode() if isinstance(k, str) else k: v for k, v in fields.items()}


def print_report(description: str, figures: Sequence[Figure]) -> None:
    """Print a row for each number of consumers and shards."""
    console = Console(width=100)
    console.print(description)
    names = list(dict.fromkeys(figure.checkout for figure in figures))
    table = Table("shards", "consumers", *(f"{name}: {what}" for name in names for what in ("trades/s", "jobs")))
    cells: dict[tuple[int, int], list[str]] = {}
    for figure in figures:
        row = cells.setdefault((figure.shards, figure.consumers), [])
        row += [f"{figure.trades_per_s:,.0f}", f"{figure.healing_jobs:.0f}"]
    for (shards, consumers), row in cells.items():
        table.add_row(str(shards), str(consumers), *row)
    console.print(table)


async def lines(sizes: Sizes) -> list[Line]:
    """The lines of the common table. The servers are always its own, because they are given slow disks."""
    _, figures = await measure(
        argparse.Namespace(
            before=None,
            commit_ms=0,
            consumers=[1, 2],
            shards=[2],
            trades=sizes.of(64_000, least=8_000),
            entry=20,
            batch=500,
            rounds=sizes.rounds,
        )
    )
    one, two = (figure.trades_per_s for figure in figures)
    return [Line("two consumers, two shards", "trades/s", two, usual=one, usual_is="one consumer")]


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, help="another checkout, whose rounds alternate with this one's")
    parser.add_argument("--commit-ms", type=int, default=0, help="delay of each flush of the WAL")
    parser.add_argument("--consumers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--trades", type=int, default=64_000)
    parser.add_argument("--entry", type=int, default=20, help="trades per entry")
    parser.add_argument("--batch", type=int, default=500, help="rows per batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    description, figures = asyncio.run(measure(arguments))
    print_report(description, figures)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "servers": description,
            "figures": figures,
        }
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


if __name__ == "__main__":
    main()
