"""What ``gaps="raise"`` costs, beside a read without it and beside classifying the whole range, in one run.

    python -m benchmarks.gaps [--database-url URL --redis-url URL] [--rounds N]

A year of one-minute candles of one symbol, all proven by their trades' ids (a trade each, of which only the candles
and the ledger are written). Three ledgers: without a hole; with ten holes after the year; with one hole inside of it,
in which case only the check is measured, because the read raises.

``whole``, the limit, is ``get_coverage`` of the year, which classifies every candle.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta

import asyncpg
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from benchmarks.lines import Line, Sizes
from benchmarks.read import SYMBOL, YEAR_END, YEAR_START
from benchmarks.servers import Place, measured_servers
from kraken_history.database.connections import create_pool
from kraken_history.errors import CoverageError
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import MINUTE

DAY = timedelta(days=1)
MINUTES = (YEAR_END + DAY - YEAR_START) // MINUTE

_FILL = """
    INSERT INTO candles (symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume,
                         trade_count, vwap, source, first_trade_id, last_trade_id)
    SELECT $1, minute, 1, 60000, 60001, 59999, 60000, 1, 60000, 1, 60000, 'trades', n, n
    FROM generate_series($2::timestamptz, $3::timestamptz - interval '1 minute', interval '1 minute')
         WITH ORDINALITY AS g (minute, n)
"""
_NOTE = """
    WITH keys AS (INSERT INTO sync_keys VALUES ($1, 'trades'), ($1, 'candles_1m'))
    INSERT INTO data_sync_status
        (symbol, data_type, oldest_timestamp, newest_timestamp, total_records, lowest_id, highest_id)
    VALUES ($1, 'trades', $2, $3, 0, 1, $4),
           ($1, 'candles_1m', $2, $3::timestamptz - interval '1 minute', 0, NULL, NULL)
"""
LEDGERS = {
    "no hole": [],
    "ten holes after it": [526_000 + 10 * n for n in range(10)],
    "a hole in it": [250_000],
}
"""By what is missing: ids without a trade, each of a minute."""

_NOTE_HOLES = """
    INSERT INTO unheld_ids (symbol, first_id, stop_id, missing, after_time, before_time)
    SELECT $1, id, id + 1, 1,
           $2::timestamptz + (id - 2) * interval '1 minute', $2::timestamptz + id * interval '1 minute'
    FROM unnest($3::bigint[]) AS id
"""


async def fill(place: Place) -> asyncpg.Pool:
    """Write a year of candles and a day, and a ledger that has all ids."""
    pool = await create_pool(place.database_url, min_size=1, max_size=2)
    await pool.execute("SELECT ensure_partitions('candles', $1)", [YEAR_START + 7 * n * DAY for n in range(54)])
    await pool.execute(_FILL, SYMBOL, YEAR_START, YEAR_END + DAY)
    await pool.execute(_NOTE, SYMBOL, YEAR_START, YEAR_END + DAY, MINUTES)
    await pool.execute("VACUUM ANALYZE candles")
    return pool


async def _median_ms(work: Callable[[], Awaitable[object]], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        await work()
        found.append((time.perf_counter() - began) * 1e3)
    return statistics.median(found)


class Cost(Struct, frozen=True):
    """Medians in milliseconds. The reads are None for a ledger with which they raise."""

    ignoring: float | None
    raising: float | None
    check: float
    whole: float


async def measure(arguments: argparse.Namespace) -> tuple[str, dict[str, Cost]]:
    """Measure all figures, by ledger; also describes the server."""
    costs = {}
    async with measured_servers(arguments.database_url, arguments.redis_url) as place:
        pool = await fill(place)
        async with HistoricalDataProvider(place.database_url, 1, 1) as provider:

            async def check() -> None:
                with suppress(CoverageError):
                    await provider.require_complete(SYMBOL, YEAR_START, YEAR_END)

            async def ignoring() -> None:
                await provider.get_candles(SYMBOL, 1, YEAR_START, YEAR_END, gaps="ignore")

            async def raising() -> None:
                await provider.get_candles(SYMBOL, 1, YEAR_START, YEAR_END)

            for name, ids in LEDGERS.items():
                await pool.execute("TRUNCATE unheld_ids")
                await pool.execute(_NOTE_HOLES, SYMBOL, YEAR_START, ids)
                free = raising_ms = None
                if name != "a hole in it":
                    free = await _median_ms(ignoring, arguments.rounds)
                    raising_ms = await _median_ms(raising, arguments.rounds)
                alone = await _median_ms(check, 5 * arguments.rounds)
                whole = await _median_ms(lambda: provider.get_coverage(SYMBOL, YEAR_START, YEAR_END), arguments.rounds)
                costs[name] = Cost(free, raising_ms, alone, whole)
        await pool.close()
        return place.description, costs


async def lines(sizes: Sizes) -> list[Line]:
    """The lines of the common table. A year is always measured."""
    _, costs = await measure(
        argparse.Namespace(database_url=sizes.database_url, redis_url=sizes.redis_url, rounds=sizes.rounds)
    )
    found = []
    for name, cost in costs.items():
        if cost.raising is not None:
            what = f"a year of candles that must be complete, {name}"
            found.append(Line(what, "ms", cost.raising, cost.ignoring, "unchecked read", smaller_is_better=True))
        what = f"the check of a year alone, {name}"
        found.append(Line(what, "ms", cost.check, usual=cost.whole, usual_is="get_coverage", smaller_is_better=True))
    return found


def print_report(description: str, costs: Mapping[str, Cost]) -> None:
    """Print a row for each ledger."""
    console = Console()
    console.print(description)
    table = Table("ledger", "read, ignore ms", "read, raise ms", "check alone ms", "whole ms")
    for name, cost in costs.items():
        reads = ("" if each is None else f"{each:,.0f}" for each in (cost.ignoring, cost.raising))
        table.add_row(name, *reads, f"{cost.check:.1f}", f"{cost.whole:,.0f}")
    console.print(table)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure what gaps='raise' costs.")
    parser.add_argument("--database-url", help="a server on which a database may be created")
    parser.add_argument("--redis-url", help="a Redis that may be emptied")
    parser.add_argument("--rounds", type=int, default=5)
    print_report(*asyncio.run(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
