"""Parsing and formatting of times for the command line."""

from datetime import UTC, datetime

from kraken_history.errors import UsageError


def parse_instant(text: str) -> datetime:
    """Parse an ISO 8601 date or datetime. Without an offset, it is in UTC.

    Raises:
        ValueError: ``text`` is not a valid date or datetime.
    """
    moment = datetime.fromisoformat(text.strip())
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(text) from error


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
            f"{option}: expected a time such as 2026-01-31, 2026-01-31T12:30 or 2026-01-31T12:30:00Z, got {text!r}"
        ) from None
