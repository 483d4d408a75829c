"""Parsing and formatting of times for the command line."""

from datetime import UTC, datetime, timedelta

from kraken_history.clock import Clock, utc_now
from kraken_history.errors import UsageError, quoted

MOST_DAYS = 20_000
"""Maximum of ``--days``. So many days before now is earlier than any trade of Kraken, and still a valid time."""

_DAYS_BACK = {"today": 0, "yesterday": 1}


def parse_instant(text: str, now: Clock = utc_now) -> datetime:
    """Parse an ISO 8601 date or datetime, or one of the words now, today and yesterday.

    Without an offset, the time is in UTC. ``today`` and ``yesterday`` are the first moment of that day in UTC.

    Raises:
        ValueError: ``text`` is not a valid date or datetime.
    """
    word = text.strip().lower()
    if word == "now":
        return now()
    if word in _DAYS_BACK:
        midnight = now().replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=_DAYS_BACK[word])
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"expected a date or datetime, got {quoted(text)}") from None


def instant(moment: datetime) -> str:
    """ISO 8601 in UTC with a Z, to the second, or to the microsecond if that is not zero."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def instant_option(option: str, text: str | None) -> datetime | None:
    """The time given with an option; None without it.

    Raises:
        UsageError: It is not a valid time.
    """
    try:
        return None if text is None else parse_instant(text)
    except ValueError:
        raise UsageError(
            f"{option}: expected a time such as 2026-01-31, 2026-01-31T12:30Z, today or yesterday, got {quoted(text)}"
        ) from None


def range_options(
    from_: str | None, to: str | None, days: int | None = None, now: Clock = utc_now
) -> tuple[datetime | None, datetime | None]:
    """The range given with ``--from`` and ``--to``, or with ``--days``; None is an open end.

    ``--days N`` begins N days before ``--to``, or before now.

    Raises:
        UsageError: A time is not valid, ``--from`` is not before ``--to``, or both ``--from`` and ``--days`` are given.
    """
    start, end = instant_option("--from", from_), instant_option("--to", to)
    if days is not None:
        if start is not None:
            raise UsageError("expected either --from or --days, got both: leave one of them out")
        start = (end or now()) - timedelta(days=days)
    if start is not None and end is not None and start >= end:
        raise UsageError(f"the range is reversed or empty: --from {instant(start)} must be before --to {instant(end)}")
    return start, end
