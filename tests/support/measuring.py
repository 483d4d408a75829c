"""Excludes processes from a measurement of coverage."""

import os


def unmeasured() -> dict[str, str]:
    """This process's environment, for a child process whose lines do not count.

    A measured process needs more time and memory, and writes a file at its end. Tests that limit time or memory, or
    whose process must not write, use this.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
