"""The eight longer intervals that are stored."""

from datetime import timedelta

from msgspec import Struct


class Aggregate(Struct, frozen=True):
    """One longer interval.

    Attributes:
        view: The view that readers query.
        source: The table or view from which it is aggregated; refreshed first.
    """

    view: str
    minutes: int
    source: str

    @property
    def interval(self) -> str:
        """The interval in words, as in the name of the view: ``5m``, ``1h``, ``1w``."""
        return self.view.removeprefix("candles_")

    @property
    def width(self) -> timedelta:
        """Length of a bucket."""
        return timedelta(minutes=self.minutes)


AGGREGATES = (
    Aggregate("candles_5m", 5, "candles"),
    Aggregate("candles_15m", 15, "candles"),
    Aggregate("candles_30m", 30, "candles"),
    Aggregate("candles_1h", 60, "candles"),
    Aggregate("candles_4h", 240, "candles_1h"),
    Aggregate("candles_12h", 720, "candles_1h"),
    Aggregate("candles_1d", 1440, "candles_1h"),
    Aggregate("candles_1w", 10080, "candles_1d"),
)
"""Ordered so that each follows its source."""
