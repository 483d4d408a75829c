"""Entries that a limit of the server kept from being stored, although they were written alone: when to try them again.

Such an error does not say whether the entry is at fault, or what others do on the server. It is the entry if others are
stored meanwhile.
"""

from msgspec import Struct

from consumers.batch import Entry

MOST_HELD = 100
"""Entries that are held back at once. With more, the server is at fault, and the consumer waits for it."""

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
        self.due_s = now_s + min(2.0 ** (self.tries - 2), _LONGEST_PAUSE_S)
