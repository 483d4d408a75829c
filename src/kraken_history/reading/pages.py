"""History in pages, each read by the key at which it begins, so that no transaction outlives a page."""

from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import Generic

from kraken_history.reading.candles import Extent
from kraken_history.records import Record

PAGE_ROWS = 4096
"""At about a kilobyte a row, a few megabytes."""


class Pages(ABC, Generic[Record]):
    """The records of a symbol within ``[start, end)``, oldest first, a page at a time.

    A page looks into a window of time, not into all that is left: an aggregate over the rest would be computed anew
    for each page, and every partition of the rest be opened. The window doubles while it holds little, up to a
    bound, and halves when it holds more than a page; where it holds nothing, what lies before the oldest record is
    leapt over, and nothing after the newest is looked for.

    Args:
        unit: Windows are so many of these.
        reach: How many the first window is, which is the shortest.
        longest_reach: How many the longest is.
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
        """The next page; an empty one is the end.

        Raises:
            UnknownSymbol: Nothing of the symbol is stored.
            ServiceUnavailable: The database is gone; the same page may be read again.
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
        """At most ``rows`` records of ``[start, stop)``, the oldest; of the instant ``start``, from an id on."""

    @abstractmethod
    async def _extent(self) -> Extent:
        """Between which times there are records; UnknownSymbol if nothing of the symbol is stored."""

    @abstractmethod
    def _key_after(self, record: Record) -> tuple[datetime, int]:
        """Time and id from which on the next record is looked for."""

    @abstractmethod
    def _start_of(self, oldest: datetime) -> datetime:
        """Where the record begins that holds this time."""
