"""Which intervals are stored, where, and which buckets of time an interval has. Pure."""

import re
from datetime import UTC, datetime, timedelta

from kraken_history.arguments import whole_number
from kraken_history.errors import InvalidRange, InvalidTime, UnknownInterval

MONDAY = datetime(2000, 1, 3, tzinfo=UTC)
"""All buckets are counted from here, which makes weeks start on Monday and days at midnight UTC."""

VIEWS = {
    1: "candles",
    5: "candles_5m",
    15: "candles_15m",
    30: "candles_30m",
    60: "candles_1h",
    240: "candles_4h",
    720: "candles_12h",
    1440: "candles_1d",
    10080: "candles_1w",
}
"""The table or view of each interval that is stored, in minutes."""

Span = tuple[datetime, datetime]
"""``[start, end)``."""

LONGEST_INTERVAL = 525_600
"""A year, in minutes."""


def checked_interval(interval: int) -> int:
    """The interval, in minutes, as a plain int.

    Raises:
        UnknownInterval: The value is not a whole number of minutes from 1 to :data:`LONGEST_INTERVAL`.
    """
    number = whole_number(interval)
    if number is None or not 1 <= number <= LONGEST_INTERVAL:
        raise UnknownInterval(interval, LONGEST_INTERVAL)
    return number


def parse_interval(text: str) -> int:
    """The interval, in minutes, that a user wrote: ``60``, ``60m``, ``1h``, ``4h``, ``1d`` or ``1w``.

    ``M``, which other programs use for a month, is not a unit: months have different lengths.

    Raises:
        UnknownInterval: The text is not an interval, or the interval is longer than :data:`LONGEST_INTERVAL`.
    """
    written = _WRITTEN_INTERVAL.fullmatch(text.strip())
    if written is None:
        raise UnknownInterval(text, LONGEST_INTERVAL)
    count, unit = written.groups()
    minutes = int(count) * _UNIT_MINUTES[unit.lower()]
    if not 1 <= minutes <= LONGEST_INTERVAL:
        raise UnknownInterval(text, LONGEST_INTERVAL)
    return minutes


_WRITTEN_INTERVAL = re.compile(r"([0-9]{1,6})(|m|min|[hHdDwW])")
_UNIT_MINUTES = {"": 1, "m": 1, "min": 1, "h": 60, "d": 1440, "w": 10080}


def best_stored(interval: int) -> int:
    """The longest stored interval that divides this one."""
    return max(stored for stored in VIEWS if interval % stored == 0)


def width_of(interval: int) -> timedelta:
    """Length of a candle of this interval."""
    return timedelta(minutes=interval)


def bucket_start(moment: datetime, width: timedelta) -> datetime:
    """The start of the bucket that holds this moment."""
    return moment - (moment - MONDAY) % width


def bucket_end(moment: datetime, width: timedelta) -> datetime:
    """The end of the last bucket that begins before this moment."""
    return moment + (MONDAY - moment) % width


def closed_window(start: datetime, end: datetime, interval: int) -> tuple[datetime, datetime]:
    """The bounds of the buckets that open at or after ``start`` and are closed at ``end``; equal if there are none.

    Raises:
        InvalidTime: A time is naive.
        InvalidRange: The range is empty or reversed.
    """
    width = width_of(checked_interval(interval))
    first, last = checked_range(start, end)
    opens, closes = bucket_end(first, width), bucket_start(last, width)
    return opens, max(opens, closes)


def checked_range(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """The bounds of a range, in UTC.

    Raises:
        InvalidTime: A time is naive.
        InvalidRange: The range is empty or reversed.
    """
    first, last = as_utc(start), as_utc(end)
    if first >= last:
        raise InvalidRange(start, end)
    return first, last


def as_utc(moment: datetime) -> datetime:
    """The same moment in UTC, a plain datetime, kept to the years with which a database can do arithmetic.

    Nanoseconds, as pandas has them, are cut off.

    Raises:
        InvalidTime: It is naive, or no datetime at all.
    """
    if not isinstance(moment, datetime) or moment.tzinfo is None or moment.utcoffset() is None:
        raise InvalidTime(moment)
    if moment.year < EARLIEST.year:
        return EARLIEST
    if moment.year > LATEST.year:
        return LATEST
    utc = moment.astimezone(UTC)
    return utc if type(utc) is datetime else datetime.combine(utc.date(), utc.time(), UTC)


EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
