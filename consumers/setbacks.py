"""Entries that are held back, so that they do not stop the others, and when to try them.

An entry of many days takes long, because each day needs partitions. An entry that met a limit of the server, although
it was written alone, is tried again: the error does not say whether the entry is at fault, or what others do on the
server. It is the entry if others are stored meanwhile.
"""

from collections.abc import Sequence
from datetime import date

from msgspec import Struct

from consumers.batch import Entry
from kraken_history.storing.widths import MOST_DAYS

MOST_HELD = 100
"""Entries that are held back at once. With more, the consumer waits for the server, or for wide entries."""

TRIES = 5
"""Tries of an entry that fail while others are stored, after which it becomes a dead letter."""

_LONGEST_PAUSE_S = 5.0


class HeldBack(Struct):
    """An entry that is tried again.

    Attributes:
        reason: The error of its last try.
        due_s: When it is tried again, in seconds of the monotonic clock.
        stored_then: Number of batches that the consumer had stored at its last try.
        failures: Tries that failed although others were stored since the one before.
    """

    entry: Entry
    reason: str
    due_s: float
    stored_then: int
    tries: int = 1
    failures: int = 1

    @property
    def is_hopeless(self) -> bool:
        """Whether the entry must be put aside."""
        return self.failures >= TRIES

    def note_failure(self, reason: str, *, now_s: float, stored: int) -> None:
        """Record a further try that failed.

        Args:
            stored: Number of batches that the consumer has stored so far.
        """
        self.failures += stored > self.stored_then
        self.tries += 1
        self.reason, self.stored_then = reason, stored
        self.due_s = now_s + min(2.0 ** max(self.tries - 2, 0), _LONGEST_PAUSE_S)


def divide_by_days(entries: Sequence[Entry], *, most_later: int) -> tuple[Sequence[Entry], Sequence[Entry]]:
    """Divide entries into those that one transaction can store, and at most ``most_later`` others.

    The entries with the newest rows come first. Both parts keep their order.
    """
    days_of = [
        {trade.timestamp.date() for trade in entry.trades} | {candle.timestamp.date() for candle in entry.candles}
        for entry in entries
    ]
    if len(set[date]().union(*days_of)) <= MOST_DAYS:
        return entries, ()
    taken: set[date] = set()
    later: set[int] = set()
    for at in sorted(range(len(entries)), key=lambda at: max(days_of[at], default=date.max), reverse=True):
        if len(taken | days_of[at]) <= MOST_DAYS or len(later) >= most_later:
            taken |= days_of[at]
        else:
            later.add(at)
    return [e for at, e in enumerate(entries) if at not in later], [e for at, e in enumerate(entries) if at in later]
