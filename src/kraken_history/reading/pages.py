"""History in pages. Each is read from the key at which it begins, so that no transaction spans several pages."""

from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import Generic

from kraken_history.reading.candles import Extent
from kraken_history.reading.database import Database
from kraken_history.reading.missing import Content, require_kept
from kraken_history.records import Record

PAGE_ROWS = 4096
"""Maximum number of records per page: a few megabytes, at about a kilobyte per record."""


class Pages(ABC, Generic[Record]):
    """The records of a symbol within ``[start, end)``, oldest first, a page at a time.

    Each page reads a window of time, not all of the remaining range: otherwise each page would compute an aggregate
    over the remaining range again, and open every partition in it. If a window holds less than half a page, the next
    is twice as long, up to a bound. If it fills a page, the next is half as long. If a window is empty, reading skips
    to the oldest record, and ends after the newest.

    Args:
        unit: The length of a window is a multiple of this.
        reach: Length of the first window, in units; no window is shorter.
        longest_reach: Maximum length of a window, in units.
    """

    def __init__(
        self, start: datetime, end: datetime, rows: int, *, unit: timedelta, reach: int, longest_reach: int
    ) -> None:
        self._next, self._next_id = start, 0
        self._end = end
        self._rows = rows
        self._unit = unit
        self._reach = self._shortest_reach = reach
        self._longest_reach = max(reach, longest_reach)
        self._is_begun = False

    async def read(self) -> list[Record]:
        """The next page; an empty page marks the end.

        Raises:
            UnknownSymbol: Nothing is stored for the symbol.
            ServiceUnavailable: The database is unavailable; calling again reads the same page.
        """
        if not self._is_begun:
            await self._leap()
            self._is_begun = True
        while self._next < self._end:
            stop = min(self._end, self._next + self._reach * self._unit)
            page = await self._fetch(self._next, self._next_id, stop, self._rows)
            is_full = len(page) == self._rows
            self._next, self._next_id = self._key_after(page[-1]) if is_full else (stop, 0)
            self._resize(len(page))
            if page:
                return page
            await self._leap()
        return []

    @property
    def position(self) -> datetime:
        """Every record before this time has been read."""
        return self._next

    def _resize(self, found: int) -> None:
        if found == self._rows:
            self._reach = max(self._shortest_reach, self._reach // 2)
        elif 2 * found < self._rows:
            self._reach = min(self._longest_reach, self._reach * 2)

    async def _leap(self) -> None:
        extent = await self._extent()
        if extent.oldest is None or extent.newest is None or self._next > extent.newest:
            self._next = self._end
        elif self._next < extent.oldest:
            self._next, self._next_id = self._start_of(extent.oldest), 0

    @abstractmethod
    async def _fetch(self, start: datetime, first_id: int, stop: datetime, rows: int) -> list[Record]:
        """The oldest ``rows`` records of ``[start, stop)``; at ``start`` itself, only ids from ``first_id`` on."""

    @abstractmethod
    async def _extent(self) -> Extent:
        """Times of the oldest and the newest record; raises UnknownSymbol if nothing is stored for the symbol."""

    @abstractmethod
    def _key_after(self, record: Record) -> tuple[datetime, int]:
        """Time and id from which the search for the next record begins."""

    @abstractmethod
    def _start_of(self, oldest: datetime) -> datetime:
        """Start of the record that contains this time."""


class KeptPages(Generic[Record]):
    """Pages of history that was complete before the first of them; each is checked for what was dropped meanwhile."""

    def __init__(
        self, database: Database, symbol: str, content: Content, pages: Pages[Record], interval: int = 1
    ) -> None:
        self._interval = interval
        self._database = database
        self._symbol = symbol
        self._content = content
        self._pages: Pages[Record] = pages

    async def read(self) -> list[Record]:
        """The next page; an empty page marks the end.

        Raises:
            CoverageError: Retention has dropped some of its time since the check.
        """
        start = self._pages.position
        page: list[Record] = await self._pages.read()
        span = start, self._pages.position
        await require_kept(self._database, self._symbol, span, self._content, interval=self._interval)
        return page
