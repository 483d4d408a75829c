"""Candles that are read and printed page by page."""

from datetime import UTC, datetime, timedelta

from kraken_history.cli.candle_pages import PAGE_BUCKETS, candle_pages
from kraken_history.records import HistoricalCandle


async def test_no_read_is_longer_than_a_page() -> None:
    start = datetime(2023, 1, 1, tzinfo=UTC)
    reads: list[timedelta] = []

    async def read(begin: datetime, end: datetime) -> list[HistoricalCandle]:
        reads.append(end - begin)
        return []

    found = [page async for page in candle_pages(read, (start, start + timedelta(days=365)), 1)]

    assert found == []
    assert max(reads) <= timedelta(minutes=PAGE_BUCKETS)
    assert sum(reads, timedelta()) == timedelta(days=365)
