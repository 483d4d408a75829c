"""The present, and how far two clocks may differ."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]
"""Returns the current time, as Kraken's clock shows it: aware, UTC."""

CLOCK_SLACK = timedelta(milliseconds=1)
"""How far two stored times of neighbouring trades may be out of order.

A time stored from REST can lie a microsecond after the true one, and the next trade can share its instant.
"""


def utc_now() -> datetime:
    """This machine's clock."""
    return datetime.now(UTC)


CLOCK_IS_OFF = timedelta(seconds=2)
"""Difference from which a clock counts as off. HTTP tells the time in whole seconds, and an answer takes some time."""


def hint_of_clocks(ahead_s: Mapping[str, float]) -> str:
    """Which clock is off, seen from one machine, and what to do, in one line; empty if none is.

    Kraken's clock is believed. Without it, nobody knows which of two clocks is wrong.

    Args:
        ahead_s: By server, ``redis`` or ``kraken``: seconds by which the machine's clock is ahead.
    """
    off_s = CLOCK_IS_OFF.total_seconds()
    kraken, redis = ahead_s.get("kraken"), ahead_s.get("redis")
    if kraken is not None and abs(kraken) > off_s:
        return f"the machine's clock is {_difference(kraken)} Kraken's: synchronise it, for example with chrony"
    if redis is None or abs(redis) <= off_s:
        return ""
    if kraken is None:
        return f"the machine's clock is {_difference(redis)} Redis': synchronise both, for example with chrony"
    return f"the clock of Redis' machine is {_difference(-redis)} Kraken's: synchronise it, for example with chrony"


def _difference(ahead_s: float) -> str:
    seconds = abs(ahead_s)
    size = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f"{size} {'ahead of' if ahead_s > 0 else 'behind'}"
