"""How fast trades are ingested, each figure next to its limit, measured in the same run.

    python -m benchmarks.ingest [--database-url URL --redis-url URL] [--json FILE]

(a) decode → publish; its limit is XADD of entries that were encoded before.
(b) stream → committed rows, with ledger and candles; its limit is a plain COPY of the same rows in the same
    batches into the same table; the naive way, ``executemany … ON CONFLICT DO NOTHING``, is measured too.
(c) socket → committed rows: producer and consumer as processes against the simulator; latency is the
    server's commit time minus the time of the trade, so it includes the simulator's own tick.
(d) memory of a consumer process over a long run.

Rounds of one figure alternate with rounds of its limit; medians are printed, and ratios of medians.
"""

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
import psutil
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from benchmarks.lines import Line, Sizes
from benchmarks.servers import Place, measured_servers
from benchmarks.workload import START, make_frames, make_trades
from consumers.consumer import Consumer
from kraken_history.kraken.websocket import Trades, decode_frame
from kraken_history.records import HistoricalTrade, group_by_symbol
from kraken_history.runtime.telemetry import configure_logging
from kraken_history.storing.store import Store
from kraken_history.stream import wire
from kraken_history.stream.publisher import Publisher

COLUMNS = ("id", "symbol", "timestamp", "price", "volume", "side", "order_type", "misc")
ENTRY_TRADES = 100
STREAM = wire.trades_stream(0)

Row = tuple[int, str, datetime, Any, Any, str, str, str]
Results = dict[str, Any]


def as_row(trade: HistoricalTrade) -> Row:
    """The trade as the driver takes it."""
    t = trade
    return t.id, t.symbol, t.timestamp, t.price, t.volume, t.side, t.order_type, t.misc


async def alternate(rounds: int, **figures: Callable[[], Awaitable[float]]) -> dict[str, float]:
    """Run each figure once per round, in turn; return the median of each."""
    measured: dict[str, list[float]] = {name: [] for name in figures}
    for _ in range(rounds):
        for name, measure in figures.items():
            measured[name].append(await measure())
    return {name: statistics.median(values) for name, values in measured.items()}


async def measure_publishing(place: Place, trades: Sequence[HistoricalTrade], rounds: int) -> Results:
    """(a) Frames in bytes → entries in Redis, in trades/s."""
    redis: Redis = Redis.from_url(place.redis_url)
    frames = list(make_frames(trades))
    groups = group_by_symbol(trades).values()
    entries = [wire.encode(g[at : at + ENTRY_TRADES]) for g in groups for at in range(0, len(g), ENTRY_TRADES)]

    async def ours() -> float:
        await redis.flushall()
        started = time.perf_counter()
        async with Publisher(redis, entry_max_trades=ENTRY_TRADES, buffer_max_trades=len(trades)) as publisher:
            for number, frame in enumerate(frames):
                decoded = decode_frame(frame)
                assert isinstance(decoded, Trades)
                publisher.add_trades(decoded.trades)
                if number % 1000 == 0:
                    await asyncio.sleep(0)
        assert publisher.published_trades == len(trades)
        return len(trades) / (time.perf_counter() - started)

    async def limit() -> float:
        await redis.flushall()
        started = time.perf_counter()
        for at in range(0, len(entries), 10):
            async with redis.pipeline(transaction=False) as pipeline:
                for fields in entries[at : at + 10]:
                    pipeline.xadd(STREAM, fields)
                await pipeline.execute()
        return len(trades) / (time.perf_counter() - started)

    medians = await alternate(rounds, ours=ours, limit=limit)
    await redis.flushall()
    await redis.aclose()
    return medians


async def empty(pool: asyncpg.Pool) -> None:
    """Empty the tables that a round writes."""
    await pool.execute("TRUNCATE trades, candles, data_sync_status, sync_keys, unheld_ids, absent_ids")
    await pool.execute("CHECKPOINT")


async def measure_storing(place: Place, trades: Sequence[HistoricalTrade], batch: int, rounds: int) -> Results:
    """(b) Entries in Redis → committed rows, in trades/s."""
    redis: Redis = Redis.from_url(place.redis_url)
    pool = await asyncpg.create_pool(place.database_url, min_size=2, max_size=2)
    store = Store(pool)
    async with pool.acquire() as connection:
        await store.ensure_partitions(connection, trades, ())

    async def ours() -> float:
        await empty(pool)
        await fill_stream(redis, trades)
        consumer = Consumer(redis, store, name="bench", streams=[STREAM], batch_max_rows=batch)
        stop = asyncio.Event()
        started = time.perf_counter()
        running = asyncio.create_task(consumer.run(stop))
        while consumer.new_trades < len(trades) and not running.done():  # noqa: ASYNC110 — the consumer sets no event for it
            await asyncio.sleep(0.001)
        seconds = time.perf_counter() - started
        stop.set()
        await running
        assert await pool.fetchval("SELECT count(*) FROM trades") == len(trades)
        assert await pool.fetchval("SELECT sum(trade_count) FROM candles") == len(trades)
        return len(trades) / seconds

    async def limit() -> float:
        await empty(pool)
        started = time.perf_counter()
        async with pool.acquire() as connection:
            for at in range(0, len(trades), batch):
                async with connection.transaction():
                    rows = [as_row(trade) for trade in trades[at : at + batch]]
                    await connection.copy_records_to_table("trades", records=rows, columns=COLUMNS)
        return len(trades) / (time.perf_counter() - started)

    async def naive() -> float:
        await empty(pool)
        some = trades[: len(trades) // 4]
        started = time.perf_counter()
        async with pool.acquire() as connection:
            for at in range(0, len(some), batch):
                await connection.executemany(
                    f"INSERT INTO trades ({', '.join(COLUMNS)}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"  # noqa: S608
                    " ON CONFLICT DO NOTHING",
                    [as_row(trade) for trade in some[at : at + batch]],
                )
        return len(some) / (time.perf_counter() - started)

    medians = await alternate(rounds, ours=ours, limit=limit, naive=naive)
    await empty(pool)
    await pool.close()
    await redis.aclose()
    return medians


async def fill_stream(redis: Redis, trades: Sequence[HistoricalTrade]) -> None:
    """Publish trades as a producer does: one entry per symbol, in the order of time."""
    await redis.flushall()
    step = 3 * ENTRY_TRADES
    for at in range(0, len(trades), 10 * step):
        async with redis.pipeline(transaction=False) as pipeline:
            for part in range(at, min(at + 10 * step, len(trades)), step):
                for group in group_by_symbol(trades[part : part + step]).values():
                    pipeline.xadd(STREAM, wire.encode(group))
            await pipeline.execute()


def start_service(module: str, place: Place, **environment: str) -> subprocess.Popen[bytes]:
    """Start one of the project's processes against these servers."""
    own = {"DATABASE_URL": place.database_url, "REDIS_URL": place.redis_url, "LOG_LEVEL": "warning"}
    return subprocess.Popen([sys.executable, "-m", module], env={**os.environ, **own, **environment})


async def measure_latency(place: Place, rate: float, seconds: float) -> Results:
    """(c) Socket → committed rows at a steady rate, in milliseconds."""
    redis: Redis = Redis.from_url(place.redis_url)
    await redis.flushall()
    connection = await asyncpg.connect(place.database_url)
    if await connection.fetchval("SHOW track_commit_timestamp") != "on":
        await connection.close()
        return {"skipped": "the server does not record commit times: set track_commit_timestamp = on"}
    simulator = start_simulator(rate)
    assert simulator.stdout is not None
    port = int(simulator.stdout.readline().decode().rpartition(":")[2].partition("/")[0])
    ws_url = f"ws://127.0.0.1:{port}/v2"
    producer = start_service("producers", place, KRAKEN_WS_URL=ws_url)
    consumer = start_service("consumers", place)
    try:
        async with asyncio.timeout(60.0):  # until the services run: on a busy machine that takes long
            while not await connection.fetchval("SELECT EXISTS (SELECT FROM trades)"):  # noqa: ASYNC110 — as above
                await asyncio.sleep(0.2)
        await asyncio.sleep(5.0)  # the snapshot is stored
        begin = datetime.now(UTC)
        await asyncio.sleep(seconds)
        end = datetime.now(UTC)
        async with aiohttp.ClientSession() as http:
            await http.post(f"http://127.0.0.1:{port}/control/stop")
        await asyncio.sleep(2.0)
        row = await connection.fetchrow(_LATENCY, begin, end)
        assert row is not None
    finally:
        for process in (producer, consumer, simulator):
            process.terminate()
            process.wait()
        await connection.close()
        await redis.aclose()
    return {
        "trades_per_s": row["trades"] / seconds,
        "p50_ms": float(row["quantiles"][0]),
        "p99_ms": float(row["quantiles"][1]),
        "max_ms": float(row["quantiles"][2]),
    }


def start_simulator(rate: float) -> subprocess.Popen[bytes]:
    """The simulator as a process of its own, on a free port that its first line names."""
    command = [sys.executable, "-m", "simulator", "--port", "0", "--rate", str(rate), "--seed", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


_LATENCY = """
    SELECT count(*) AS trades, percentile_cont(ARRAY[0.5, 0.99, 1.0]) WITHIN GROUP (
        ORDER BY extract(epoch FROM pg_xact_commit_timestamp(xmin) - timestamp) * 1000.0) AS quantiles
    FROM trades WHERE timestamp >= $1 AND timestamp < $2
"""


async def measure_memory(place: Place, total: int) -> Results:
    """(d) Resident memory of a consumer process while it stores ``total`` trades, in MB."""
    redis: Redis = Redis.from_url(place.redis_url)
    pool = await asyncpg.create_pool(place.database_url, min_size=1, max_size=1)
    await empty(pool)
    await redis.flushall()
    consumer = start_service("consumers", place)
    process = psutil.Process(consumer.pid)
    part, samples, stored = 50_000, [], 0
    try:
        for number in range(total // part):
            trades = make_trades(part, seed=number)
            shifted = [msgspec.structs.replace(t, id=t.id + number * part) for t in trades]
            await fill_stream_on(redis, shifted)
            stored += part
            while await pool.fetchval(_TOTAL) < stored:  # noqa: ASYNC110 — the consumer is another process
                await asyncio.sleep(0.02)
            samples.append(process.memory_info().rss / 2**20)
    finally:
        consumer.terminate()
        consumer.wait()
        await empty(pool)
        await pool.close()
        await redis.aclose()
    return {"trades": stored, "first_mb": samples[0], "last_mb": samples[-1], "max_mb": max(samples)}


_TOTAL = "SELECT coalesce(sum(total_records), 0) FROM data_sync_status WHERE data_type = 'trades'"


async def fill_stream_on(redis: Redis, trades: Sequence[HistoricalTrade]) -> None:
    """Publish more entries, and keep the existing ones."""
    for at in range(0, len(trades), 3 * ENTRY_TRADES):
        for group in group_by_symbol(trades[at : at + 3 * ENTRY_TRADES]).values():
            await redis.xadd(STREAM, wire.encode(group))


async def measure(arguments: argparse.Namespace) -> Results:
    """Measure all figures."""
    trades = make_trades(arguments.trades)
    async with measured_servers(arguments.database_url, arguments.redis_url) as place:
        results: Results = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "processors": os.cpu_count(),
            "server": place.description,
            "trades": len(trades),
            "first": START.isoformat(),
            "publish": await measure_publishing(place, trades, arguments.rounds),
        }
        for batch in (1000, 5000):
            results[f"store_{batch}"] = await measure_storing(place, trades, batch, arguments.rounds)
        results["latency"] = await measure_latency(place, arguments.rate, arguments.seconds)
        results["memory"] = await measure_memory(place, arguments.memory_trades)
    return results


def print_report(results: Results) -> None:
    """Print each figure next to its limit."""
    console = Console()
    console.print(results["server"])
    table = Table("", "ours /s", "limit /s", "of limit", "naive /s", "times naive")
    publish = results["publish"]
    table.add_row(
        "(a) decode → publish", f"{publish['ours']:,.0f}", f"{publish['limit']:,.0f}",
        f"{publish['ours'] / publish['limit']:.2f}", "", "",
    )  # fmt: skip
    for batch in (1000, 5000):
        store = results[f"store_{batch}"]
        table.add_row(
            f"(b) stream → rows, batches of {batch:,}", f"{store['ours']:,.0f}", f"{store['limit']:,.0f}",
            f"{store['ours'] / store['limit']:.2f}", f"{store['naive']:,.0f}", f"{store['ours'] / store['naive']:.1f}",
        )  # fmt: skip
    console.print(table)
    latency, memory = results["latency"], results["memory"]
    if "skipped" in latency:
        console.print(f"(c) socket → rows: {latency['skipped']}")
    else:
        console.print(
            f"(c) socket → rows at {latency['trades_per_s']:,.0f} trades/s: p50 {latency['p50_ms']:.0f} ms, "
            f"p99 {latency['p99_ms']:.0f} ms, max {latency['max_ms']:.0f} ms"
        )
    console.print(
        f"(d) consumer over {memory['trades']:,} trades: {memory['first_mb']:.0f} MB at first, "
        f"{memory['last_mb']:.0f} MB at last, at most {memory['max_mb']:.0f} MB"
    )


async def lines(sizes: Sizes) -> list[Line]:
    """The lines of the common table."""
    results = await measure(
        argparse.Namespace(
            database_url=sizes.database_url,
            redis_url=sizes.redis_url,
            trades=sizes.of(200_000, least=10_000),
            rounds=sizes.rounds,
            rate=2000.0,
            seconds=sizes.of(30, least=5),
            memory_trades=sizes.of(2_000_000, least=100_000),
        )
    )
    publish, memory, latency = results["publish"], results["memory"], results["latency"]
    found = [Line("decode → publish", "trades/s", publish["ours"], publish["limit"], "bare XADD")]
    for batch in (1000, 5000):
        store = results[f"store_{batch}"]
        found.append(
            Line(
                f"stream → rows, batches of {batch:,}",
                "trades/s",
                store["ours"],
                store["limit"],
                "plain COPY",
                store["naive"],
                "executemany",
            )
        )
    if "skipped" not in latency:
        what = f"socket → commit at {latency['trades_per_s']:,.0f} trades/s"
        found += [Line(f"{what}, {cut}", "ms", latency[f"{cut}_ms"], smaller_is_better=True) for cut in ("p50", "p99")]
    found.append(Line("memory of a consumer, at most", "MB", memory["max_mb"], smaller_is_better=True))
    return found


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--database-url", help="a server that may be given a scratch database (default: embedded)")
    parser.add_argument("--redis-url", help="a Redis that may be EMPTIED (default: embedded)")
    parser.add_argument("--trades", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2000.0, help="trades/s for the latency")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of the latency measurement")
    parser.add_argument("--memory-trades", type=int, default=2_000_000)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/ingest.json"))
    arguments = parser.parse_args()
    configure_logging("warning", as_json=False)
    results = asyncio.run(measure(arguments))
    print_report(results)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")


if __name__ == "__main__":
    main()
