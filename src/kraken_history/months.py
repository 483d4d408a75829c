"""Months of UTC, the unit of the archive. Pure."""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime

from msgspec import Struct

_TEXT = re.compile(r"(\d{4})-(\d{2})")


class Month(Struct, frozen=True, order=True):
    """A month of UTC, such as 2025-11.

    Raises:
        ValueError: There is no such month.
    """

    year: int
    number: int

    def __post_init__(self) -> None:
        date(self.year, self.number, 1)

    @classmethod
    def of(cls, moment: datetime) -> "Month":
        """The month that contains an aware time."""
        return cls.of_day(moment.astimezone(UTC).date())

    @classmethod
    def of_day(cls, day: date) -> "Month":
        """The month that contains a day."""
        return cls(day.year, day.month)

    @classmethod
    def parse(cls, text: str) -> "Month":
        """The month of a text such as ``2025-11``.

        Raises:
            ValueError: The text is not a month.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError(f"expected a month such as 2025-11, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def between(cls, start: datetime, end: datetime) -> "Iterator[Month]":
        """The months that ``[start, end)`` touches, oldest first."""
        month = cls.of(start)
        while month.start < end:
            yield month
            month = month.next

    def __str__(self) -> str:
        return f"{self.year:04}-{self.number:02}"

    @property
    def first_day(self) -> date:
        """The first day of the month."""
        return date(self.year, self.number, 1)

    @property
    def start(self) -> datetime:
        """Midnight at the beginning of the month, in UTC."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """Midnight at the end of the month, in UTC."""
        return self.next.start

    @property
    def next(self) -> "Month":
        """The month after this one."""
        return Month(self.year + self.number // 12, self.number % 12 + 1)
