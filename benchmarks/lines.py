"""The lines of the common table, and the sizes for which each benchmark measures its own.

A module of this package joins ``python -m benchmarks`` by having ``async def lines(sizes: Sizes) -> list[Line]``.
"""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from rich.table import Table


class Sizes(Struct, frozen=True):
    """On what to measure, and how much.

    Attributes:
        database_url: A server that may be given a scratch database; None for an embedded one.
        redis_url: A Redis that may be emptied; None for an embedded one.
        rounds: Rounds of each figure, whose median counts.
        share: The part of the full size, above 0 and at most 1.
    """

    database_url: str | None = None
    redis_url: str | None = None
    rounds: int = 3
    share: float = 1.0

    def of(self, full: int, *, least: int = 1) -> int:
        """A size in proportion to the share."""
        return max(round(full * self.share), least)


class Line(Struct, frozen=True):
    """One figure next to its limit and to the usual way, measured in the same run.

    Attributes:
        unit: Such as ``trades/s`` or ``ms``.
        limit: What the servers or the libraries below allow, without our work; None if there is no such figure.
        limit_is: What was measured as the limit.
        usual: What a user would otherwise do; None if that was not measured.
        usual_is: What was measured as the usual way.
        smaller_is_better: True for times and sizes.
    """

    what: str
    unit: str
    ours: float
    limit: float | None = None
    limit_is: str = ""
    usual: float | None = None
    usual_is: str = ""
    smaller_is_better: bool = False

    @property
    def of_limit(self) -> float | None:
        """1 at the limit; less if we are worse."""
        return self._better_than(self.limit)

    @property
    def times_usual(self) -> float | None:
        """How many times better than the usual way."""
        return self._better_than(self.usual)

    def _better_than(self, other: float | None) -> float | None:
        if not other or not self.ours:
            return None
        return other / self.ours if self.smaller_is_better else self.ours / other


def table_of(lines: Sequence[Line]) -> Table:
    """The common table."""
    table = Table(title_justify="left")
    for at, column in enumerate(("", "unit", "ours", "limit", "of limit", "usual way", "times usual")):
        table.add_column(column, justify="right" if at > 1 else "left", overflow="fold")
    for line in lines:
        table.add_row(
            line.what,
            line.unit,
            _number(line.ours),
            _named(line.limit, line.limit_is),
            "" if line.of_limit is None else f"{line.of_limit:.2f}",
            _named(line.usual, line.usual_is),
            "" if line.times_usual is None else f"{line.times_usual:.1f}",
        )
    return table


def machine() -> str:
    """The machine, and how busy it is now: a figure of a busy machine is only good for a ratio."""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"{_processor()}, {os.cpu_count()} processors, {platform.system()} {platform.machine()},"
        f" Python {platform.python_version()}; load over 1, 5 and 15 minutes: {load}"
    )


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _named(value: float | None, name: str) -> str:
    return "" if value is None else f"{_number(value)} {name}".strip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
