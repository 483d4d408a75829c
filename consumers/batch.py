"""When a batch is written. No I/O, no clock of its own."""

from msgspec import Struct

from kraken_history.records import HistoricalCandle, HistoricalTrade


class Entry(Struct, frozen=True):
    """One decoded entry of a stream."""

    stream: str
    id: bytes
    trades: list[HistoricalTrade]
    candles: list[HistoricalCandle]
    fields: dict[bytes, bytes]

    @property
    def rows(self) -> int:
        """Trades and candles that it holds."""
        return len(self.trades) + len(self.candles)


class Batch:
    """Entries that are written, and acknowledged, together.

    Args:
        max_rows: Rows at which it is due. The entry that reaches it is still part of it.
        max_age_s: Age of its oldest entry at which it is due.
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
        """Why the batch is to be written now: ``rows``, ``age``, or nothing."""
        if self.rows >= self._max_rows:
            return "rows"
        return "age" if self.entries and self.wait_s(now_s=now_s) <= 0 else ""

    def wait_s(self, *, now_s: float) -> float:
        """How long reading may go on before the batch is due by age; an empty batch waits its whole age."""
        if self._opened_at is None:
            return self._max_age_s
        return self._opened_at + self._max_age_s - now_s

    def take(self) -> list[Entry]:
        """The entries, leaving the batch empty."""
        entries, self.entries, self.rows, self._opened_at = self.entries, [], 0, None
        return entries
