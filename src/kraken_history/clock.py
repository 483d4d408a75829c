"""The present, and how far two clocks may differ."""

from collections.abc import Callable
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
