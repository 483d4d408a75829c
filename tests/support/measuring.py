"""Which processes count for the coverage, when it is measured."""

import os


def unmeasured() -> dict[str, str]:
    """This process's environment for one whose lines do not count.

    Measuring costs a process time and memory, and it writes a file at its end: a test that bounds the first two, or
    whose process may not write, goes without.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
