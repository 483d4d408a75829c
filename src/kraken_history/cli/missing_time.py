"""Missing ranges as a person reads them: why each is missing, and the command that fills it. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct

from kraken_history.records import TimeRange
from kraken_history.remedies import duration_text, fill_command

SETTLES_WITHIN = timedelta(minutes=10)
"""Age up to which missing time is shown as not settled yet. The next trade settles it, or the worker, which looks every
five minutes for missing time of more than two."""

SHOW_COMMAND = "kraken-history status"
"""Given for a range that no command fills: it shows what retention dropped, and whether the feed is alive."""


_AROUND_AN_INSTANT = timedelta(minutes=3)
"""Longest missing time of a single instant: from the minute of the trade before it to that of the trade after it."""


class Gap(Struct, frozen=True):
    """A missing range.

    Attributes:
        why: ``missing``: never stored. ``dropped``: retention dropped its one-minute candles, and nothing brings them
            back. ``unsettled``: moments ago, and the next trade or the worker settles it. ``unreachable``: more
            trades than a page share one instant, so Kraken's REST API cannot show them all.
        command: Fills the range if ``why`` is ``missing``. Otherwise it shows the reason.
    """

    start: datetime
    end: datetime
    why: Literal["missing", "dropped", "unsettled", "unreachable"]
    command: str

    @property
    def duration(self) -> timedelta:
        """The length of the range."""
        return self.end - self.start


def explain(
    symbol: str,
    missing: Iterable[TimeRange],
    dropped: Sequence[TimeRange],
    unreachable: Sequence[datetime] = (),
    *,
    now: datetime,
) -> list[Gap]:
    """Each missing range with its reason and its command.

    Args:
        missing: None of them is dropped only in part.
        dropped: The time that was dropped.
        unreachable: Instants of which REST cannot show every trade.
    """
    return [_explained(symbol, each, dropped, unreachable, now) for each in missing]


def _explained(
    symbol: str, missing: TimeRange, dropped: Sequence[TimeRange], unreachable: Sequence[datetime], now: datetime
) -> Gap:
    if any(gone.start <= missing.start and missing.end <= gone.end for gone in dropped):
        return Gap(missing.start, missing.end, "dropped", SHOW_COMMAND)
    if missing.duration <= _AROUND_AN_INSTANT and any(missing.start <= each < missing.end for each in unreachable):
        return Gap(missing.start, missing.end, "unreachable", SHOW_COMMAND)
    if missing.start >= now - SETTLES_WITHIN:
        return Gap(missing.start, missing.end, "unsettled", SHOW_COMMAND)
    return Gap(missing.start, missing.end, "missing", fill_command(symbol, missing.start, missing.end))


ONE_BY_ONE = "run these one after the other (--follow waits): a backfill replaces the one before it"
"""Said beside several commands of one symbol, which has one backfill at a time."""


def are_several(gaps: Iterable[Gap]) -> bool:
    """Whether more than one of the gaps has a command that fills it."""
    return sum(gap.why == "missing" for gap in gaps) > 1


def lasting(seconds: float) -> str:
    """A duration in its two largest units, such as ``2 d 3 h``; the rest is cut off. Less than a second is ``0``."""
    return duration_text(timedelta(seconds=seconds)) if seconds >= 1 else "0"


def percent(part: float, whole: float) -> str:
    """A share in per cent. Neither a small one is shown as none, nor a large one as all."""
    if not part or not whole:
        return "0 %"
    if part == whole:
        return "100 %"
    return f"{min(max(100 * part / whole, 0.01), 99.99):.2f} %"


def rough(duration: timedelta) -> str:
    """A duration in few digits, as precise as an estimate is."""
    seconds = duration.total_seconds()
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 10:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours} h" if hours < 48 else f"{round(hours / 24)} days"
