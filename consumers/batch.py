"""Decides when a batch is written. No I/O; the caller passes the time."""

from collections.abc import Sequence

from msgspec import Struct

from kraken_history.records import HistoricalCandle, HistoricalTrade, RefusedTrade


class Entry(Struct, frozen=True):
    """One decoded entry of a stream."""

    stream: str
    id: bytes
    trades: list[HistoricalTrade]
    candles: list[HistoricalCandle]
    fields: dict[bytes, bytes]
    refused: Sequence[RefusedTrade] = ()

    @property
    def rows(self) -> int:
        """Number of trades and candles in it."""
        return len(self.trades) + len(self.candles) + len(self.refused)


class Batch:
    """Entries that are written, and acknowledged, together.

    Args:
        max_rows: The batch is due at this many rows. The entry that reaches the limit is still part of it.
        max_age_s: The batch is due when its oldest entry is this old.
    """

    def __init__(self, *, max_rows: int, max_age_s: float) -> None:
        self._max_rows = max_rows
        self._max_age_s = max_age_s
        self._opened_at: float | None = None
        self.entries: list[Entry] = []
        self.rows = 0

    def add(self, entry: Entry, *, now_s: float) -> None:
        """Add an entry that was read at ``now_s``."""
        if self._opened_at is None:
            self._opened_at = now_s
        self.entries.append(entry)
        self.rows += entry.rows

    def due(self, *, now_s: float) -> str:
        """Return why the batch must be written now, ``rows`` or ``age``; an empty string if it is not due."""
        if self.rows >= self._max_rows:
            return "rows"
        return "age" if self.entries and self.wait_s(now_s=now_s) <= 0 else ""

    def wait_s(self, *, now_s: float) -> float:
        """Seconds until the batch is due by age; the full ``max_age_s`` if it is empty."""
        if self._opened_at is None:
            return self._max_age_s
        return self._opened_at + self._max_age_s - now_s

    def take(self) -> list[Entry]:
        """Return the entries and empty the batch."""
        entries, self.entries, self.rows, self._opened_at = self.entries, [], 0, None
        return entries
