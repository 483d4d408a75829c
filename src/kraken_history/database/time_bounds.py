"""Bounds of time that are written into a statement, so that no plan of it opens other partitions or chunks.

PostgreSQL plans a prepared statement for its arguments five times. Then it makes a plan for any arguments as well, to
compare, and may keep it. That plan opens, and locks, every partition of a table: thousands after some years, more than
a server with the default ``max_locks_per_transaction`` has room for. Bounds that are constants hold for that plan too.
"""

from datetime import datetime, timedelta

from kraken_history.intervals import bucket_end, bucket_start

WEEK = timedelta(weeks=1)
"""The width of a partition or chunk of candles."""

DAY = timedelta(days=1)
"""The width of a partition or chunk of trades."""

_MICROSECOND = timedelta(microseconds=1)


def within(column: str, first: datetime, last: datetime, width: timedelta) -> str:
    """SQL: ``column`` is in one of the whole buckets from that of ``first`` to that of ``last``.

    Whole ones, so that few different statements are prepared: live trades of one day give one.

    Args:
        first, last: Aware times; both are included.
    """
    low, high = bucket_start(first, width), bucket_end(last + _MICROSECOND, width)
    return f"{column} >= timestamptz '{low.isoformat()}' AND {column} < timestamptz '{high.isoformat()}'"
