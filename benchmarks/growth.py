"""Which costs grow with the history, with the holes in it, or with the number of symbols.

    python -m benchmarks.growth [--quick] [--rows NAME …] [--flavours plain timescaledb] [--strict] [--json FILE]

Each row is one cost, measured at several sizes. A table per row shows the figures by size, the ratio of the greatest
size to the smallest, and whether the row stays within what is wanted of it. The sizes are numbers of: holes in the
ledger of one symbol; days, of a trade per minute; trades within 90 days; writes while another session holds a snapshot;
days of a ten-year history whose coverage is read; rows of an import; symbols of a worker.

Rounds of one size alternate with those of the others, and the least figure counts. On a busy machine, trust ratios,
and bytes, blocks and locks, rather than milliseconds.
"""

import argparse
import asyncio
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from benchmarks import growth_costs as costs
from benchmarks.growth_costs import Cost, Figures, Site, least_of, open_site
from benchmarks.growth_series import (
    SYMBOL,
    Place,
    Series,
    spans,
    sparse_imports,
    worker_passes,
    writes_beside_a_snapshot,
)
from benchmarks.histories import DAY, History, build
from benchmarks.servers import FLAVOURS, EmptyServers, empty_servers
from kraken_history.clock import utc_now
from kraken_history.records import floor_minute
from kraken_history.runtime.telemetry import configure_logging

Sizes = Mapping[str, Sequence[int]]
"""By dimension, the sizes to measure at."""

FULL: Sizes = {
    "holes": (1, 1_000, 10_000, 100_000),
    "days": (30, 365, 3_650),
    "trades": (0, 1_000_000, 10_000_000, 20_000_000),
    "writes": (0, 1_000, 3_000),
    "span": (1, 365, 3_650),
    "rows": (1_000, 8_000, 26_000),
    "symbols": (10, 100, 1_100),
}
QUICK: Sizes = {
    "holes": (1, 1_000, 10_000),
    "days": (30, 90),
    "trades": (0, 20_000, 80_000),
    "writes": (0, 100, 300),
    "span": (1, 30, 90),
    "rows": (200, 1_000),
    "symbols": (5, 20),
}

_DAYS_OF_HOLES = 30
_DAYS_OF_TRADES = 90


class Wanted(Struct, frozen=True):
    """What is wanted of one figure of a row.

    Attributes:
        most: The greatest value at any size; None for any.
        most_at: By size, the greatest value there.
        times: Maximum ratio of the value at the greatest size to that at the smallest; None for any.
    """

    figure: str
    most: float | None = None
    most_at: Mapping[int, float] = {}
    times: float | None = None


class Row(Struct, frozen=True):
    """A cost and its dimension: measured on one database per size, or as a series of its own."""

    name: str
    dimension: str
    wanted: Sequence[Wanted]
    cost: Cost | None = None
    series: Series | None = None


FLAT = 1.5
"""Maximum ratio of a cost that is flat: the noise of a busy machine is within it."""


def _flat(*figures: str) -> list[Wanted]:
    return [Wanted(figure, times=FLAT) for figure in figures]


ROWS: Sequence[Row] = (
    Row("write", "holes", _flat("ms", "wal_kb"), costs.write),
    Row("sweep", "holes", [Wanted("ms", most=10)], costs.sweep_for_holes),
    Row("hour", "holes", [Wanted("ms", most=20), *_flat("blocks", "locks")], costs.coverage_of_an_hour),
    Row("status", "holes", _flat("ms", "blocks", "missing_ms", "newest_ids_ms"), costs.status),
    Row("latest", "holes", _flat("ms", "hours_ms", "blocks"), costs.latest),
    Row("follow", "holes", _flat("ms", "blocks"), costs.follow_poll),
    Row("locate", "holes", _flat("ms", "locate_ms", "locks", "blocks"), costs.missing_before),
    Row("snapshot", "writes", _flat("ms"), series=writes_beside_a_snapshot),
    *(
        row
        for dimension in ("days", "trades")
        for row in (
            Row("write", dimension, _flat("ms", "wal_kb"), costs.write),
            Row("locate", dimension, [*_flat("ms", "blocks"), Wanted("locks", most=99)], costs.missing_before),
            Row("range", dimension, [Wanted("ms", most=5), *_flat("blocks", "locks")], costs.data_range),
            Row("status", dimension, _flat("ms", "blocks", "locks"), costs.status),
            Row("latest", dimension, _flat("ms", "hours_ms", "blocks", "locks"), costs.latest),
            Row("follow", dimension, _flat("ms", "blocks", "locks"), costs.follow_poll),
            Row("refresh", dimension, _flat("ms"), costs.refresh_of_an_hour),
        )
    ),
    Row("raise", "days", [Wanted("raise_times", most=1.3)], costs.refused_gaps),
    Row("retention", "days", _flat("ms", "idle_ms"), costs.retention),
    Row("coverage", "span", [Wanted("ms", most_at={1: 10, 365: 100, 3_650: 1_000})], series=spans),
    Row("sparse", "rows", [Wanted("ms_per_row", times=FLAT), Wanted("dense_times", most=3)], series=sparse_imports),
    Row("worker", "symbols", [Wanted("cpu_ms_per_symbol", times=FLAT)], series=worker_passes),
)
NAMES = tuple(dict.fromkeys(row.name for row in ROWS))


class Grown(Struct, frozen=True):
    """The figures of a row on one kind of server.

    Attributes:
        figures: By size.
        verdicts: By figure: whether it is as wanted, in words.
        misses: The figures that are not as wanted.
    """

    flavour: str
    row: str
    dimension: str
    figures: Mapping[int, Figures]
    verdicts: Mapping[str, str]
    misses: Sequence[str]


def judged(flavour: str, row: Row, figures: Mapping[int, Figures]) -> Grown:
    """A row with its verdicts."""
    verdicts = {}
    misses = []
    for wanted in row.wanted:
        values = {size: each[wanted.figure] for size, each in figures.items() if wanted.figure in each}
        verdict, is_missed = _judge(wanted, values)
        verdicts[wanted.figure] = verdict
        if is_missed:
            misses.append(wanted.figure)
    return Grown(flavour, row.name, row.dimension, figures, verdicts, misses)


def _judge(wanted: Wanted, values: Mapping[int, float]) -> tuple[str, bool]:
    if not values:
        return "not measured", False
    ratio = ratio_of(values)
    if wanted.times is not None:
        is_missed = ratio > wanted.times
        return f"{'grows' if is_missed else 'flat'}, wanted ≤ {wanted.times:g} ×", is_missed
    limits = {size: wanted.most_at.get(size, wanted.most) for size in values}
    over = [size for size, limit in limits.items() if limit is not None and values[size] > limit]
    known = " / ".join(f"{limit:g}" for limit in dict.fromkeys(limits.values()) if limit is not None)
    return f"{'over' if over else 'within'}, wanted ≤ {known}" if known else "no limit", bool(over)


def ratio_of(values: Mapping[int, float]) -> float:
    """The value at the greatest size, in relation to that at the smallest."""
    least, greatest = values[min(values)], values[max(values)]
    return greatest / least if least else 1.0


def history_of(dimension: str, size: int, sizes: Sequence[int], end: datetime) -> History:
    """The history whose size is measured; only the size differs from those of the others."""
    if dimension == "holes":
        return History(SYMBOL, end - _DAYS_OF_HOLES * DAY, end, max(50_000, max(sizes) + 2), size)
    if dimension == "days":
        return History(SYMBOL, end - size * DAY, end, size * 1440)
    return History(SYMBOL, end - _DAYS_OF_TRADES * DAY, end, size)


async def measure(
    place: Place, flavour: str, rows: Sequence[Row], sizes: Sizes, *, rounds: int, console: Console | None = None
) -> list[Grown]:
    """Measure some rows, and print each when it is done."""
    found: list[Grown] = []

    def note(row: Row, figures: Mapping[int, Figures]) -> None:
        found.append(judged(flavour, row, figures))
        if console is not None:
            print_row(console, found[-1])

    for dimension in dict.fromkeys(row.dimension for row in rows if row.cost is not None):
        shared = [row for row in rows if row.dimension == dimension and row.cost is not None]
        async with AsyncExitStack() as stack:
            sites = [
                await _built_site(stack, place, dimension, size, sizes[dimension], console) for size in sizes[dimension]
            ]
            for row in shared:
                note(row, await _alternating(sites, row, rounds))
    for row in rows:
        if row.series is not None:
            note(row, await row.series(place, sizes[row.dimension], rounds))
    return found


async def _built_site(
    stack: AsyncExitStack, place: Place, dimension: str, size: int, sizes: Sequence[int], console: Console | None
) -> Site:
    history = history_of(dimension, size, sizes, floor_minute(utc_now()))
    url = await stack.enter_async_context(place.database())
    built = await build(url, [history], materialized=dimension != "holes")
    if console is not None:
        console.print(
            f"{size:,} {dimension}: filled in {built.fill_s:.1f} s, migrated in {built.migrate_s:.1f} s, refreshed in"
            f" {built.refresh_s:.1f} s"
        )
    return await stack.enter_async_context(open_site(size, history, url))


async def _alternating(sites: Sequence[Site], row: Row, rounds: int) -> dict[int, Figures]:
    assert row.cost is not None
    found: dict[int, list[Figures]] = {site.size: [] for site in sites}
    for _ in range(rounds):
        for site in sites:
            found[site.size].append(await row.cost(site))
    return {size: least_of(figures) for size, figures in found.items()}


def print_row(console: Console, grown: Grown) -> None:
    """Print the table of a row."""
    names = list(dict.fromkeys(name for figures in grown.figures.values() for name in figures))
    if not names:
        console.print(f"{grown.row} by {grown.dimension}: not measured")
        return
    table = Table(grown.dimension, *names, title=f"{grown.row} by {grown.dimension} ({grown.flavour})")
    for size, figures in grown.figures.items():
        table.add_row(f"{size:,}", *(_text(figures.get(name)) for name in names))
    values = {name: {size: each[name] for size, each in grown.figures.items() if name in each} for name in names}
    table.add_row("ratio", *(f"{ratio_of(values[name]):.2g} ×" for name in names))
    table.add_row("", *(grown.verdicts.get(name, "") for name in names))
    console.print(table)


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


async def run(arguments: argparse.Namespace) -> list[Grown]:
    """Measure everything that was asked for."""
    console = Console(width=160)
    rows = [
        row for row in ROWS
        if row.name in (arguments.rows or NAMES) and row.dimension in (arguments.dimensions or FULL)
    ]  # fmt: skip
    given = {dimension: getattr(arguments, f"{dimension}_sizes") for dimension in FULL}
    sizes = {**(QUICK if arguments.quick else FULL), **{name: each for name, each in given.items() if each}}
    found = []
    for flavour in arguments.flavours:
        async with empty_servers(flavour, arguments.database_url, arguments.redis_url) as servers:
            found += await measure(
                place_on(servers), flavour, rows, sizes, rounds=arguments.rounds, console=console
            )  # fmt: skip
    return found


def place_on(servers: EmptyServers) -> Place:
    """The servers as the series see them."""
    return Place(servers.redis_url, servers.database)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=NAMES, help="costs to measure (default: all)")
    parser.add_argument("--dimensions", nargs="+", choices=tuple(FULL), help="only costs by these (default: all)")
    parser.add_argument("--flavours", nargs="+", choices=FLAVOURS, default=list(FLAVOURS), help="kinds of server")
    parser.add_argument("--database-url", help="a server on which databases may be created, instead of one flavour's")
    parser.add_argument("--redis-url", help="a Redis that may be emptied")
    for dimension, sizes in FULL.items():
        shown = " ".join(map(str, sizes))
        parser.add_argument(
            f"--{dimension}-sizes", nargs="+", type=int, metavar="N", help=f"sizes by {dimension} (default: {shown})"
        )
    parser.add_argument("--quick", action="store_true", help="small sizes, for a run of about a minute")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a cost is not as wanted")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/growth.json"))
    return parser


def main() -> None:
    """Measure, print, and write JSON."""
    arguments = _parser().parse_args()
    configure_logging("warning", as_json=False)
    found = asyncio.run(run(arguments))
    results = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "rows": found,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    misses = [f"{grown.row} by {grown.dimension} on {grown.flavour}" for grown in found if grown.misses]
    print(f"{len(found) - len(misses)} of {len(found)} rows as wanted")  # noqa: T201 — the outcome of the command
    if arguments.strict and misses:
        sys.exit(f"not as wanted: {', '.join(misses)}")


if __name__ == "__main__":
    main()
