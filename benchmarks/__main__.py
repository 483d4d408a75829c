"""Run all benchmarks and print one table: ours, the limit, what a user would do instead, and the ratios.

    python -m benchmarks [--only ingest read] [--share 0.1] [--database-url URL --redis-url URL]

Each module of this package that has ``lines`` takes part. Figures depend on the machine and on what else it does;
ratios are of medians of rounds that alternated.
"""

import argparse
import asyncio
import importlib
import pkgutil
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

import benchmarks
from benchmarks.lines import Line, Sizes, machine, table_of
from kraken_history.runtime.telemetry import configure_logging

Lines = Callable[[Sizes], Awaitable[Sequence[Line]]]


def parts() -> tuple[dict[str, Lines], list[str]]:
    """The benchmarks that take part, by name, and the names of those that only run by themselves."""
    found: dict[str, Lines] = {}
    alone = []
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name.startswith("_"):
            continue
        loaded = importlib.import_module(f"benchmarks.{module.name}")
        if callable(lines := getattr(loaded, "lines", None)):
            found[module.name] = lines
        elif hasattr(loaded, "main"):
            alone.append(module.name)
    return found, alone


async def measure(chosen: dict[str, Lines], sizes: Sizes) -> tuple[list[Line], list[str]]:
    """The lines of all parts, one part after another, and the names of those that failed."""
    measured: list[Line] = []
    failed = []
    for name, lines in chosen.items():
        sys.stderr.write(f"{name} …\n")
        try:
            measured += await lines(sizes)
        except Exception:  # the figures of the others are still worth having
            traceback.print_exc()
            failed.append(name)
    return measured, failed


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most 1, got {text}")
    return share


def main() -> int:
    """Measure, print, and write JSON; return the exit code."""
    known, alone = parts()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=sorted(known), help="run these parts (default: all)")
    parser.add_argument("--share", type=_share, default=1.0, help="part of the full sizes, such as 0.05 for a trial")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--database-url", help="a server that may be given a scratch database (default: embedded)")
    parser.add_argument("--redis-url", help="a Redis that may be EMPTIED (default: embedded)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/all.json"))
    arguments = parser.parse_args()
    configure_logging("warning", as_json=False)
    chosen = {name: known[name] for name in arguments.only or known}
    sizes = Sizes(arguments.database_url, arguments.redis_url, arguments.rounds, arguments.share)
    before = machine()
    measured, failed = asyncio.run(measure(chosen, sizes))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(f"{datetime.now(UTC):%Y-%m-%d}; {before}; {arguments.share:g} of the full sizes", highlight=False)
    console.print(table_of(measured))
    if failed:
        console.print(f"failed: {', '.join(failed)}")
    if alone and not arguments.only:
        console.print(
            f"not in this table, to be run alone: {', '.join(f'python -m benchmarks.{name}' for name in alone)}"
        )
    record = {"at": datetime.now(UTC), "machine": before, "share": arguments.share, "lines": measured}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
