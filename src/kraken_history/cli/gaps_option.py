"""The option ``--gaps`` of the commands that print or write candles, and what they say about missing data."""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kraken_history.reading.gaps import GapsChoice

HELP = (
    "What to do if part of the range is missing. ignore: use what is stored. raise: fail, and name the command that"
    " fetches it. pad (or fill): make up a flat candle at the last close for every bucket without one."
)


class Gaps(StrEnum):
    """The choices, which are those of every read."""

    IGNORE = "ignore"
    RAISE = "raise"
    PAD = "pad"
    FILL = "fill"

    @property
    def choice(self) -> "GapsChoice":
        """The same, as a read takes it."""
        return self.value

    @property
    def pads(self) -> bool:
        """True if candles are made up, and have a column that says so."""
        return self in (Gaps.PAD, Gaps.FILL)


MADE_UP = "is_made_up"
"""The last column of padded candles."""
