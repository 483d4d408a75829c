"""``python -m tests.faults``: run the scenarios, and write the table of faults."""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.faults.all_scenarios import SCENARIOS
from tests.faults.report import add_to_report, row_of
from tests.faults.scenario import BOTH, run, runs
from tests.faults.servers import Fleet, NotHereError


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="run the scenarios whose name contains one of these; all by default")
    parser.add_argument("--seeds", default="1", help="comma-separated (%(default)s)")
    parser.add_argument("--flavours", default=",".join(BOTH), help="comma-separated (%(default)s)")
    parser.add_argument("--logs", type=Path, help="keep the logs of all processes in this folder")
    parser.add_argument("--list", action="store_true", help="print the scenarios, and run none")
    parser.add_argument("--no-report", action="store_true", help="do not write docs/faults.md and docs/faults.json")
    return parser.parse_args()


async def _run_all(arguments: argparse.Namespace) -> bool:
    is_well = True
    with tempfile.TemporaryDirectory(prefix="faults-", dir=_memory(), ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o711)  # the servers may run under another account
        fleet = Fleet(Path(name))
        try:
            for what, flavour in runs(arguments.names, arguments.flavours.split(",")):
                for seed in map(int, arguments.seeds.split(",")):
                    began = time.monotonic()
                    try:
                        outcome = await run(fleet, what, flavour, seed, arguments.logs)
                    except (NotHereError, pytest.skip.Exception) as error:
                        _say(f"{what.name} {flavour} {seed}: skipped: {error}")
                        continue
                    except Exception as error:  # the others are run all the same
                        is_well = False
                        _say(f"FAILED {what.name}/{flavour}/{seed}: it did not come to the check: {error!r}")
                        continue
                    row = row_of(what, flavour, seed, outcome)
                    is_well &= row.is_well
                    _say(f"{row.line} ({time.monotonic() - began:.0f} s)")
                    if not arguments.no_report:
                        add_to_report(row)
        finally:
            await fleet.close()
    return is_well


def _memory() -> Path | None:
    return Path("/dev/shm") if Path("/dev/shm").is_dir() else None


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Return 0 if every run was equal and in time."""
    arguments = _arguments()
    if arguments.list:
        for each in SCENARIOS.values():
            _say(f"{each.name} ({', '.join(each.flavours)}): {each.says}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it ends all processes that it started
    return 0 if asyncio.run(_run_all(arguments)) else 1


if __name__ == "__main__":
    sys.exit(main())
