"""How fast candles are read, each figure next to its limit, measured in the same run.

    python -m benchmarks.read [--database-url URL --redis-url URL] [--json FILE]

(a) A year of one-minute candles as records; the limit is a bare ``fetch`` of the same columns by the driver.
(b) The same year as Arrow with float64, beside a local Feather file and, if psycopg is installed, pandas.read_sql
    (``uv run --all-extras --with psycopg[binary] python -m benchmarks.read``). The limit is
    ``COPY … TO STDOUT (FORMAT binary)`` of the same rows and casts, discarded as it arrives.
(c) The latest 200 candles, of one minute and of an hour, read by eight processes, each twenty times per second, in
    three situations. Alone. Live: a consumer process stores trades as fast as it can, so densely that they span only
    seconds, and the longer intervals are refreshed every five seconds, twelve times as often as the worker does.
    Catching up: the consumer stores hours of trades per second, and the longer intervals are refreshed every second.
(d) ``replay_candles`` over the year at speed 0: candles/s, and the memory of a fresh process after a tenth of the
    year and after all of it.

Rounds of one figure alternate with rounds of its limit; medians are printed, and ratios of medians.
"""

import argparse
import asyncio
import importlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from benchmarks.ingest import STREAM, alternate, fill_stream, start_service
from benchmarks.lines import Line, Sizes
from benchmarks.servers import Place, measured_servers
from benchmarks.workload import TRADES_A_MINUTE, make_trades
from kraken_history.database.connections import create_pool
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.candle_query import COLUMNS
from kraken_history.records import HistoricalTrade
from kraken_history.runtime.telemetry import configure_logging
from kraken_history.storing.aggregates import refresh

SYMBOL = "BTC/USDT"
SYMBOLS = (SYMBOL, "ETH/USDT", "XRP/USDT")
YEAR_START = datetime(2025, 1, 1, tzinfo=UTC)
YEAR_END = datetime(2026, 1, 1, tzinfo=UTC)
READERS = 8
ASKS_PER_S = 20.0
LATEST = 200
LIVE_TRADES_A_MINUTE = 6_000_000

Results = dict[str, Any]

_FILL = """
    INSERT INTO candles (symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume,
                         trade_count, vwap, source)
    SELECT $1, minute, 1, p, p + 1.7, p - 2.3, p + 0.4, v, v * p, 3 + (n % 200)::integer, p, 'trades'
    FROM (
        SELECT minute, n, round((60000 + 5000 * sin(n / 900.0))::numeric, 1) AS p,
               round((0.5 + n % 977 / 100.0)::numeric, 8) AS v
        FROM generate_series($2::timestamptz, $3::timestamptz - interval '1 minute', interval '1 minute')
             WITH ORDINALITY AS g (minute, n)
    ) AS series
"""

_NOTE = """
    WITH marked AS (
        INSERT INTO stale_hours (symbol, start_time, end_time) SELECT symbol, $2, $3 FROM unnest($1::text[]) AS symbol
    ), keys AS (
        INSERT INTO sync_keys SELECT symbol, 'candles_1m' FROM unnest($1::text[]) AS symbol
    )
    INSERT INTO data_sync_status (symbol, data_type, oldest_timestamp, newest_timestamp, total_records)
    SELECT symbol, 'candles_1m', $2, $3::timestamptz - interval '1 minute', 0
    FROM unnest($1::text[]) AS symbol
"""


async def fill(place: Place) -> None:
    """Write a year of one-minute candles of each symbol, and all longer intervals."""
    pool = await create_pool(place.database_url, min_size=1, max_size=2)
    weeks = [YEAR_START + timedelta(days=7 * n) for n in range(53)]
    await pool.execute("SELECT ensure_partitions('candles', $1)", weeks)
    for symbol in SYMBOLS:
        await pool.execute(_FILL, symbol, YEAR_START, YEAR_END)
    await pool.execute(_NOTE, list(SYMBOLS), YEAR_START, YEAR_END)
    await refresh(pool)
    await pool.execute("VACUUM ANALYZE candles")
    if await pool.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"):
        # Its policies would start to compress the new rows, because their times are old.
        await pool.execute("SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs")
    await pool.close()


async def measure_year(place: Place, rounds: int) -> Results:
    """(a) and (b), in rows/s."""
    bare = await asyncpg.connect(place.database_url)
    async with HistoricalDataProvider(place.database_url) as provider:

        async def records() -> float:
            started = time.perf_counter()
            candles = await provider.get_candles(SYMBOL, 1, YEAR_START, YEAR_END, gaps="ignore")
            return len(candles) / (time.perf_counter() - started)

        async def fetch() -> float:
            started = time.perf_counter()
            rows = await bare.fetch(_select(COLUMNS), SYMBOL, YEAR_START, YEAR_END)
            return len(rows) / (time.perf_counter() - started)

        async def arrow() -> float:
            started = time.perf_counter()
            table = await provider.get_candles_arrow(SYMBOL, 1, YEAR_START, YEAR_END, numbers="float", gaps="ignore")
            return int(table.num_rows) / (time.perf_counter() - started)

        async def decimals() -> float:
            started = time.perf_counter()
            table = await provider.get_candles_arrow(SYMBOL, 1, YEAR_START, YEAR_END, gaps="ignore")
            return int(table.num_rows) / (time.perf_counter() - started)

        async def copy() -> float:
            started = time.perf_counter()
            done = await bare.copy_from_query(
                _select(_FLOATS), SYMBOL, YEAR_START, YEAR_END, output=_drop, format="binary"
            )
            return int(done.split()[1]) / (time.perf_counter() - started)

        await arrow()  # the packages are imported and the connection is made once
        figures = {"records": records, "fetch": fetch, "arrow": arrow, "copy": copy, "decimals": decimals}
        if find_spec("pandas") is not None and find_spec("psycopg") is not None:
            figures["read_sql"] = partial(_read_sql, place.database_url)
        with tempfile.TemporaryDirectory(prefix="kraken-history-benchmark-") as folder:
            path = Path(folder) / "year.feather"
            await _write_feather(provider, path)
            medians = await alternate(rounds, **figures, feather=partial(_read_feather, path))
    await bare.close()
    return medians


async def _write_feather(provider: HistoricalDataProvider, path: Path) -> None:
    """What somebody has who copied the data out, without the proof that it is complete."""
    feather: Any = importlib.import_module("pyarrow.feather")
    table = await provider.get_candles_arrow(SYMBOL, 1, YEAR_START, YEAR_END, numbers="float", gaps="ignore")
    feather.write_feather(table, str(path), compression="lz4")


async def _read_feather(path: Path) -> float:
    feather: Any = importlib.import_module("pyarrow.feather")
    started = time.perf_counter()
    table = feather.read_table(str(path), memory_map=False)
    return int(table.num_rows) / (time.perf_counter() - started)


async def _read_sql(database_url: str) -> float:
    """The usual way: a frame of pandas by psycopg, numbers cast to float8 as for ours."""
    pandas: Any = importlib.import_module("pandas")
    psycopg: Any = importlib.import_module("psycopg")
    query = _select(_FLOATS).replace("$1", "%s").replace("$2", "%s").replace("$3", "%s")
    with psycopg.connect(database_url) as connection, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas would rather have SQLAlchemy around it
        started = time.perf_counter()
        frame = pandas.read_sql(query, connection, params=(SYMBOL, YEAR_START, YEAR_END))
        return len(frame) / (time.perf_counter() - started)


def _select(columns: str) -> str:
    return (
        f"SELECT {columns} FROM candles WHERE symbol = $1 AND interval_minutes = 1"  # noqa: S608 — constants
        " AND timestamp >= $2 AND timestamp < $3 ORDER BY timestamp"
    )


_FLOATS = ", ".join(
    f"{name}::float8" if name in ("open", "high", "low", "close", "volume", "quote_volume", "vwap") else name
    for name in COLUMNS.split(", ")
)


async def _drop(_: bytes) -> None:
    """Discard the output of the limit's COPY."""


async def measure_latest(place: Place, trades: int, seconds: float) -> Results:
    """(c) In milliseconds, by interval; each reader and the consumer are processes of their own."""
    live = make_trades(trades, start=YEAR_END, a_minute=LIVE_TRADES_A_MINUTE)
    results: Results = {
        "alone": {"asked": await _ask(place, seconds)},
        "live": await _ask_while_writing(place, live, seconds, refresh_every_s=5.0),
    }
    last = {trade.symbol: trade for trade in live}
    late = make_trades(trades, start=live[-1].timestamp, a_minute=TRADES_A_MINUTE)
    late = [msgspec.structs.replace(trade, id=last[trade.symbol].id + trade.id) for trade in late]
    results["catching up"] = await _ask_while_writing(place, late, seconds, refresh_every_s=1.0)
    return results


async def _ask_while_writing(
    place: Place, trades: Sequence[HistoricalTrade], seconds: float, *, refresh_every_s: float
) -> Results:
    redis: Redis = Redis.from_url(place.redis_url)
    pool = await create_pool(place.database_url, min_size=1, max_size=1)
    stored_before = await pool.fetchval(_STORED)
    await fill_stream(redis, trades)
    consumer = start_service("consumers", place)
    try:
        while (before := await pool.fetchval(_STORED)) == stored_before:  # noqa: ASYNC110 — the consumer is another process
            await asyncio.sleep(0.02)
        started = time.perf_counter()
        refreshing = asyncio.create_task(_keep_refreshing(place, refresh_every_s))
        asked = await _ask(place, seconds)
        refreshing.cancel()
        written = await pool.fetchval(_STORED) - before
        return {
            "asked": asked,
            "written_per_s": written / (time.perf_counter() - started),
            "left_in_stream": len(trades) - written - (before - stored_before),
        }
    finally:
        consumer.terminate()
        consumer.wait()
        await redis.delete(STREAM)
        await redis.aclose()
        await pool.close()


_STORED = "SELECT coalesce(sum(total_records), 0)::bigint FROM data_sync_status WHERE data_type = 'trades'"


async def _keep_refreshing(place: Place, every_s: float) -> None:
    pool = await create_pool(place.database_url, min_size=1, max_size=1)
    try:
        while True:
            await refresh(pool)
            await asyncio.sleep(every_s)
    finally:
        pool.terminate()


async def _ask(place: Place, seconds: float) -> dict[str, dict[str, float]]:
    """Read in one process per reader, as paper testers do."""
    readers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", _READER, place.database_url, str(number), str(seconds), stdout=subprocess.PIPE
        )
        for number in range(READERS)
    ]
    outputs = [await reader.communicate() for reader in readers]
    found = [msgspec.json.decode(output, type=dict[str, list[float]]) for output, _ in outputs]
    return {interval: _quantiles([each for one in found for each in one[interval]]) for interval in ("1", "60")}


_READER = f"""
import asyncio, json, sys, time
from kraken_history import HistoricalDataProvider

async def main():
    url, number, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    found = {{"1": [], "60": []}}
    async with HistoricalDataProvider(url, 1, 1) as provider:
        for interval in (1, 60):
            await provider.get_latest_candles({SYMBOL!r}, interval, {LATEST})
        await asyncio.sleep(1.5)  # the others start
        due, turn = time.perf_counter() + number / {READERS} / {ASKS_PER_S}, number
        stop_at = due + seconds
        while due < stop_at:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            interval = (1, 60)[turn % 2]
            started = time.perf_counter()
            candles = await provider.get_latest_candles({SYMBOL!r}, interval, {LATEST})
            found[str(interval)].append((time.perf_counter() - started) * 1e3)
            assert len(candles) == {LATEST}
            due, turn = due + 1 / {ASKS_PER_S}, turn + 1
    print(json.dumps(found))

asyncio.run(main())
"""


def _quantiles(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100)
    return {"asks": len(values), "p50_ms": cuts[49], "p99_ms": cuts[98], "max_ms": max(values)}


async def measure_replay(place: Place, rounds: int) -> Results:
    """(d) Each round in a fresh process, which reports its own speed and memory."""
    runs = []
    for _ in range(rounds):
        command = [sys.executable, "-c", _REPLAY, place.database_url, YEAR_START.isoformat(), YEAR_END.isoformat()]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        output, _ = await process.communicate()
        runs.append(msgspec.json.decode(output))
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


_REPLAY = f"""
import asyncio, json, sys, time
import psutil
from datetime import datetime
from kraken_history import HistoricalDataProvider

async def main():
    url, start, end = sys.argv[1], *map(datetime.fromisoformat, sys.argv[2:])
    memory, count = psutil.Process().memory_info, 0
    async with HistoricalDataProvider(url) as provider:
        began = time.perf_counter()
        async for candle in provider.replay_candles({SYMBOL!r}, 1, start, end, speed=0, gaps="ignore"):
            count += 1
            if count == 52_560:
                early = memory().rss / 2**20
        seconds = time.perf_counter() - began
    print(json.dumps(dict(candles=count, per_s=count / seconds, early_mb=early, late_mb=memory().rss / 2**20)))

asyncio.run(main())
"""


async def measure(arguments: argparse.Namespace) -> Results:
    """Measure all figures."""
    async with measured_servers(arguments.database_url, arguments.redis_url) as place:
        await fill(place)
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "processors": os.cpu_count(),
            "server": place.description,
            "year": await measure_year(place, arguments.rounds),
            "replay": await measure_replay(place, arguments.rounds),
            "latest": await measure_latest(place, arguments.trades, arguments.seconds),
        }


def print_report(results: Results) -> None:
    """Print each figure next to its limit."""
    console = Console()
    console.print(results["server"])
    year = results["year"]
    table = Table("a year of one-minute candles", "ours /s", "limit /s", "of limit", "times records")
    for name, ours, limit in (("records", "records", "fetch"), ("Arrow, float64", "arrow", "copy")):
        table.add_row(
            name, f"{year[ours]:,.0f}", f"{year[limit]:,.0f}", f"{year[ours] / year[limit]:.2f}",
            f"{year[ours] / year['records']:.1f}",
        )  # fmt: skip
    table.add_row("Arrow, decimal128", f"{year['decimals']:,.0f}", "", "", f"{year['decimals'] / year['records']:.1f}")
    console.print(table)
    latest = results["latest"]
    table = Table(f"latest {LATEST}, {READERS} readers", "minutes", "asks", "p50 ms", "p99 ms", "max ms")
    for name, part in latest.items():
        for interval, found in part["asked"].items():
            table.add_row(
                name, interval, f"{found['asks']}", f"{found['p50_ms']:.1f}", f"{found['p99_ms']:.1f}",
                f"{found['max_ms']:.1f}",
            )  # fmt: skip
    console.print(table)
    for name in ("live", "catching up"):
        console.print(
            f"{name}: the consumer stored {latest[name]['written_per_s']:,.0f} trades/s meanwhile, "
            f"and {latest[name]['left_in_stream']:,} were left in the stream at the end"
        )
    replay = results["replay"]
    console.print(
        f"replay: {replay['per_s']:,.0f} candles/s; {replay['early_mb']:.0f} MB after a tenth of the year, "
        f"{replay['late_mb']:.0f} MB after {replay['candles']:,} candles"
    )


async def lines(sizes: Sizes) -> list[Line]:
    """The lines of the common table. A year is always read."""
    results = await measure(
        argparse.Namespace(
            database_url=sizes.database_url,
            redis_url=sizes.redis_url,
            rounds=sizes.rounds,
            trades=sizes.of(2_600_000, least=100_000),
            seconds=sizes.of(15, least=3),
        )
    )
    year, latest = results["year"], results["latest"]
    usual = (year.get("read_sql"), "pandas.read_sql" if "read_sql" in year else "")
    found = [
        Line("a year of candles as records", "rows/s", year["records"], year["fetch"], "bare fetch"),
        Line("a year as Arrow, float64", "rows/s", year["arrow"], year["copy"], "COPY, binary", *usual),
        Line("a year as Arrow, decimal128", "rows/s", year["decimals"], usual=usual[0], usual_is=usual[1]),
        Line("replay of a year at speed 0", "candles/s", results["replay"]["per_s"], year["records"], "records"),
    ]
    if "feather" in year:
        found.append(Line("a year as Arrow, against a file", "rows/s", year["arrow"], year["feather"], "local Feather"))
    for name, part in latest.items():
        for minutes, asked in part["asked"].items():
            what = f"latest {LATEST} of {minutes} min, {READERS} readers, {name}, p99"
            found.append(Line(what, "ms", asked["p99_ms"], smaller_is_better=True))
    return found


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--database-url", help="a server that may be given a scratch database (default: embedded)")
    parser.add_argument("--redis-url", help="a Redis that may be EMPTIED (default: embedded)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trades", type=int, default=2_600_000, help="trades in the stream, for the consumer to store")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long the readers run")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/read.json"))
    arguments = parser.parse_args()
    configure_logging("warning", as_json=False)
    results = asyncio.run(measure(arguments))
    print_report(results)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")


if __name__ == "__main__":
    main()
