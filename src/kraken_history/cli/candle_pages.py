"""Candles of any range, read and printed page by page, so that memory use does not grow with the range."""

import csv
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta

import msgspec

from kraken_history.intervals import Span, bucket_end, bucket_start, width_of
from kraken_history.provider import SyncStatus
from kraken_history.records import MINUTE, HistoricalCandle

PAGE_BUCKETS = 5_000
"""Maximum number of buckets per read. A read of more takes more memory, and delays the first line."""

TABLE_ROWS = 1_000
"""Maximum number of rows per table. The columns of a table get their widths from all of its rows."""

Texts = Callable[[HistoricalCandle], Sequence[str | int]]
Read = Callable[[datetime, datetime], Awaitable[list[HistoricalCandle]]]
Pages = AsyncIterator[list[HistoricalCandle]]


def stored_range(status: SyncStatus, interval: int, start: datetime | None, end: datetime) -> Span:
    """The part of a range that can hold stored candles; empty or reversed if none can."""
    width = width_of(interval)
    oldest = bucket_start(status.oldest_timestamp or end, width)
    newest = bucket_end((status.newest_timestamp or end) + MINUTE, width)
    return oldest if start is None else max(start, oldest), min(end, newest)


def pages(start: datetime, end: datetime, width: timedelta, buckets: int) -> Iterator[Span]:
    """Consecutive time ranges that split no bucket, except that the last one ends at ``end``."""
    while start < end:
        stop = end if end - start <= buckets * width else bucket_end(start, width) + (buckets - 1) * width
        yield start, stop
        start = stop


async def candle_pages(read: Read, span: Span, interval: int) -> Pages:
    """Candles of the span, oldest first; no page is empty."""
    for start, end in pages(*span, width_of(interval), PAGE_BUCKETS):
        if candles := await read(start, end):
            yield candles


async def print_csv(found: Pages, fields: Sequence[str], texts: Texts) -> int:
    """Print a header and all candles; return their number."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(fields)
    rows = 0
    async for candles in found:
        writer.writerows(map(texts, candles))
        rows += len(candles)
    return rows


async def print_json(found: Pages, fields: Sequence[str], texts: Texts) -> int:
    """Print all candles as one list, a line each; return their number."""
    rows = 0
    sys.stdout.write("[")
    async for candles in found:
        lines = (msgspec.json.encode(dict(zip(fields, texts(candle), strict=True))).decode() for candle in candles)
        sys.stdout.write(",\n" if rows else "")
        sys.stdout.write(",\n".join(lines))
        rows += len(candles)
    sys.stdout.write("]\n")
    return rows


async def print_tables(found: Pages, print_table: Callable[[Sequence[HistoricalCandle]], None]) -> int:
    """Print all candles as tables of :data:`TABLE_ROWS`; return their number."""
    rows = 0
    waiting: list[HistoricalCandle] = []
    async for candles in found:
        rows += len(candles)
        waiting += candles
        while len(waiting) >= TABLE_ROWS:
            print_table(waiting[:TABLE_ROWS])
            del waiting[:TABLE_ROWS]
    print_table(waiting)
    return rows
