"""The time of the holes in a long history, and windows of it."""

from collections.abc import Iterable, Iterator
from datetime import timedelta

from kraken_history.completeness.hole_times import find_hole_spans
from kraken_history.database.connections import Connection
from kraken_history.intervals import Span, bucket_start

DAY = timedelta(days=1)

LONGEST_WINDOW = timedelta(days=60)
"""Longest time whose candles one query reads, which bounds its memory in the server."""


async def find_holes_of_long(connection: Connection, symbol: str, span: Span) -> list[Span]:
    """As :func:`~kraken_history.completeness.hole_times.find_hole_spans`; holes of the same time are one."""
    return sorted(set(await find_hole_spans(connection, symbol, span)))


def split(spans: Iterable[Span], width: timedelta) -> Iterator[Span]:
    """The spans, cut at full days in UTC into pieces of at most ``width``, which is whole days."""
    for low, high in spans:
        while low < high:
            end = min(high, bucket_start(low, DAY) + width)
            yield low, end
            low = end
