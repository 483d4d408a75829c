"""Times as they are read from and written to the terminal."""

from datetime import UTC, datetime

from kraken_history.errors import UsageError


def parse_instant(text: str) -> datetime:
    """An ISO 8601 date or datetime; without an offset it is UTC's.

    Raises:
        ValueError: It is none.
    """
    moment = datetime.fromisoformat(text.strip())
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(text) from error


def instant(moment: datetime) -> str:
    """ISO 8601 in UTC with a Z, to the second or, where there is more, to the microsecond."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def instant_option(option: str, text: str | None) -> datetime | None:
    """What an option says; None where it was not given.

    Raises:
        UsageError: It is not a time.
    """
    try:
        return None if text is None else parse_instant(text)
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is not a time: write 2026-01-31, 2026-01-31T12:30 or 2026-01-31T12:30:00Z"
        ) from None
