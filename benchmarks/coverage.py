"""What coverage of years costs: from the kept maps, from the candles, and by SQL over every candle, in one run.

    python -m benchmarks.coverage [--database-url URL --redis-url URL] [--years N] [--rounds N]

Two symbols, of which only candles and ledger are written: one with a trade in every minute, and one with a trade every
three hours. The ledger proves all of it. ``SQL`` is the limit of a reader that has nothing but the candles: it runs
once, since it takes long.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
from rich.console import Console
from rich.table import Table

from benchmarks.servers import measured_servers
from kraken_history.database.connections import create_pool
from kraken_history.provider import HistoricalDataProvider
from kraken_history.storing.map_building import build_missing_maps
from tests.coverage_reads.in_sql import covered_parts

DAY, YEAR = timedelta(days=1), timedelta(days=365)
END = datetime(2026, 1, 5, tzinfo=UTC)
SYMBOLS = {"BTC/USDT": timedelta(minutes=1), "ICX/EUR": timedelta(hours=3)}
"""By symbol, the time between two of its trades."""

_FILL = """
    INSERT INTO candles (symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume,
                         trade_count, vwap, source, first_trade_id, last_trade_id)
    SELECT $1, minute, 1, 60000, 60001, 59999, 60000, 1, 60000, 1, 60000, 'trades', n + $5, n + $5
    FROM generate_series($2::timestamptz, $3::timestamptz - interval '1 minute', $4::interval)
         WITH ORDINALITY AS g (minute, n)
"""
_NOTE = """
    WITH keys AS (INSERT INTO sync_keys VALUES ($1, 'trades'), ($1, 'candles_1m'))
    INSERT INTO data_sync_status
        (symbol, data_type, oldest_timestamp, newest_timestamp, total_records, lowest_id, highest_id)
    SELECT $1, 'trades', $2::timestamptz, $3::timestamptz, $4::bigint, 1::bigint, $4::bigint
    UNION ALL SELECT $1, 'candles_1m', $2, $3::timestamptz - $5::interval, $4, NULL, NULL
"""
_COUNTED = "SELECT min(timestamp), max(timestamp), count(*) FROM candles WHERE symbol = $1 AND interval_minutes = 1"


async def fill(pool: asyncpg.Pool, start: datetime) -> None:
    """Write the candles and the ledgers, in pieces of a year."""
    weeks = (END - start) // (7 * DAY) + 2
    await pool.execute("SELECT ensure_partitions('candles', $1)", [start + 7 * n * DAY for n in range(weeks)])
    for symbol, step in SYMBOLS.items():
        low = start
        while low < END:
            high = min(low + YEAR, END)
            await pool.execute(_FILL, symbol, low, high, step, (low - start) // step)
            low = high
        await pool.execute(_NOTE, symbol, start, END, (END - start) // step, step)
    await pool.execute("VACUUM ANALYZE candles")


async def timed_ms(work: Callable[[], Awaitable[object]], rounds: int = 1) -> float:
    """The median."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        await work()
        found.append((time.perf_counter() - began) * 1e3)
    return statistics.median(found)


async def measure(arguments: argparse.Namespace) -> None:
    """Measure and print all figures, in milliseconds."""
    console = Console(width=120)
    start = END - arguments.years * YEAR
    async with measured_servers(arguments.database_url, arguments.redis_url) as place:
        pool = await create_pool(place.database_url, min_size=1, max_size=2)
        await fill(pool, start)
        console.print(place.description)
        spans = {"a day": DAY, "a year": YEAR, f"{arguments.years} years": arguments.years * YEAR}
        figures: dict[tuple[str, str], list[float]] = {}
        async with HistoricalDataProvider(place.database_url, 1, 1) as provider:

            def read(symbol: str, span: timedelta) -> Callable[[], Awaitable[object]]:
                return lambda: provider.get_coverage(symbol, END - span, END)

            def read_days(symbol: str, span: timedelta) -> Callable[[], Awaitable[object]]:
                return lambda: provider.get_coverage(symbol, END - span, END, resolution=DAY)

            for symbol in SYMBOLS:
                for name, span in spans.items():
                    async with pool.acquire() as connection:
                        sql = await timed_ms(lambda s=symbol, w=span: covered_parts(connection, s, (END - w, END)))  # type: ignore[misc]
                    figures[symbol, name] = [sql, await timed_ms(read(symbol, span))]
                counted = await timed_ms(lambda s=symbol: pool.fetchrow(_COUNTED, s), arguments.rounds)  # type: ignore[misc]
                known = await timed_ms(lambda s=symbol: provider.get_data_range(s), arguments.rounds)  # type: ignore[misc]
                console.print(f"{symbol}: data range {known:.1f} ms, min, max and count {counted:,.0f} ms")
            built = await timed_ms(lambda: build_missing_maps(pool, now=END + DAY))
            console.print(f"making the maps of both symbols: {built:,.0f} ms")
            await pool.execute("VACUUM ANALYZE minute_maps")
            for symbol in SYMBOLS:
                for name, span in spans.items():
                    figures[symbol, name].append(await timed_ms(read(symbol, span), arguments.rounds))
                    figures[symbol, name].append(await timed_ms(read_days(symbol, span), arguments.rounds))
            sizes = await pool.fetchrow("SELECT count(*), pg_total_relation_size('minute_maps') FROM minute_maps")
        table = Table("symbol", "range", "SQL ms", "without maps ms", "with maps ms", "by day ms")
        for (symbol, name), row in figures.items():
            table.add_row(symbol, name, *(f"{figure:,.1f}" for figure in row))
        console.print(table)
        assert sizes is not None  # it is an aggregate
        console.print(f"{sizes[0]:,} maps in {sizes[1] / 1e6:.1f} MB")
        await pool.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure what coverage of years costs.")
    parser.add_argument("--database-url", help="a server on which a database may be created")
    parser.add_argument("--redis-url", help="a Redis that may be emptied")
    parser.add_argument("--years", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
