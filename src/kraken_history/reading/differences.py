"""What a verification finds, collected so that a broken decade does not fill the memory."""

from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

from kraken_history.intervals import bucket_start, width_of
from kraken_history.storing.candle_checks import SHOWN

What = Literal[
    "trade_missing",
    "trade_repeated",
    "trade_not_in_ledger",
    "trade_total",
    "trade_extent",
    "candle_differs",
    "candle_missing",
    "candle_without_trades",
    "candle_outranked",
    "candle_total",
    "candle_extent",
    "longer_differs",
    "longer_missing",
    "longer_without_minutes",
    "given_invalid",
    "given_uncovered",
    "given_total",
    "map_differs",
]
"""What differs.

``trade_missing``: an id in the ledger has no row. ``trade_repeated``: an id has several rows.
``trade_not_in_ledger``: the id of a row is not in the ledger. ``…_total``, ``…_extent``: the ledger's count, or its
oldest or newest time, is wrong. ``candle_differs``: a one-minute candle is not what its trades give.
``candle_missing``: there are trades, and no candle. ``candle_without_trades``: a candle of trades, and none is stored.
``candle_outranked``: the candle of another source stands, though the stored trades are at least as many.
``longer_…``: the same of a longer candle and its minutes. ``given_…``: of a longer candle without minutes, as the
exchange or a download gave it: its values, its time or its interval cannot be, the time that these candles cover
leaves it out, or the ledger's count or
times are not theirs. ``map_differs``: the map of a day's minutes with candles, from which coverage is computed, is not
that of its candles.
"""

_DAY = width_of(24 * 60)
_MOST_VALUES = 3  # values of a candle in a detail
_MOST_PER_DAY = 20  # further differences of a kind, symbol and day extend the last one


class Difference(Struct, frozen=True):
    """One difference, or several of one kind side by side.

    Attributes:
        start, end: Where it is, ``[start, end)``.
        detail: In words. If there are several, their number, and the first of them.
    """

    symbol: str
    what: What
    start: datetime
    end: datetime
    detail: str


class _Run(Struct):
    start: datetime
    end: datetime
    detail: str
    count: int = 1


class Differences:
    """Differences in the order of time; those of one kind that touch each other become one."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, What, str], list[_Run]] = {}
        self._single: list[Difference] = []

    def append(self, difference: Difference) -> None:
        """Add one that stands for itself."""
        self._single.append(difference)

    def add(self, symbol: str, what: What, start: datetime, end: datetime, detail: str, *, group: str = "") -> None:
        """Add one of a candle.

        Args:
            group: Only those of one group are joined: the interval.
        """
        runs = self._runs.setdefault((symbol, what, group), [])
        if runs and (runs[-1].end == start or _is_full(runs, start)):
            runs[-1].end = max(end, runs[-1].end)
            runs[-1].count += 1
        else:
            runs.append(_Run(start, end, detail))

    def sorted(self) -> list[Difference]:
        """All, by symbol, time and kind."""
        joined = [
            Difference(symbol, what, run.start, run.end, _joined(run))
            for (symbol, what, _), runs in self._runs.items()
            for run in runs
        ]
        return sorted([*self._single, *joined], key=lambda each: (each.symbol, each.start, each.what, each.end))


def _is_full(runs: list[_Run], start: datetime) -> bool:
    return len(runs) >= _MOST_PER_DAY and bucket_start(runs[-_MOST_PER_DAY].start, _DAY) == bucket_start(start, _DAY)


def _joined(run: _Run) -> str:
    return run.detail if run.count == 1 else f"{run.count:,} candles, the first: {run.detail}"


def candle_detail(what: What, found: list[str] | None, expected: list[str] | None, below: str = "trades") -> str:
    """How a candle differs.

    Args:
        found, expected: The values (:data:`SHOWN`) of the stored candle and of that from below; None if there is none.
        below: What the candle is made from.
    """
    of_trades = SHOWN.index("trade_count")
    if found is None:
        count = 0 if expected is None else int(expected[of_trades])
        return f"no candle is stored, its {below} give one of {_trades(count)}"
    if expected is None:
        return f"a candle of {_trades(int(found[of_trades]))} is stored, its {below} are not"
    if what == "candle_outranked":
        return f"a candle of another source stands, with {_trades(int(found[of_trades]))}: {expected[of_trades]} stored"
    unequal = [
        f"{name} is {is_}, its {below} give {should_be}"
        for name, is_, should_be in sorted(zip(SHOWN, found, expected, strict=True), key=_count_first)
        if is_ != should_be
    ]
    more = len(unequal) - _MOST_VALUES
    shown = [*unequal[:_MOST_VALUES], *([f"and {more} more"] if more > 0 else [])]
    return ", ".join(shown) or "its trade ids are not those of its trades"


def _count_first(value: tuple[str, str, str]) -> bool:
    """The number of trades explains the other values."""
    return value[0] != "trade_count"


def _trades(count: int) -> str:
    return f"{count:,} trade" + ("" if count == 1 else "s")


def instant_text(moment: datetime | None) -> str:
    """A time in UTC, to the microsecond if that is not zero."""
    return "none" if moment is None else moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
