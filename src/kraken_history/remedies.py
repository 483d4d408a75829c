"""What a person types to make an incomplete history complete. Pure."""

import shlex
from datetime import UTC, datetime, timedelta

_SECOND = timedelta(seconds=1)


def fill_command(symbol: str, start: datetime, end: datetime) -> str:
    """The command that fetches the missing trades of ``[start, end)``, quoted for a shell.

    It is a backfill, because ``fill-gaps`` looks only at the last ``HISTORY_DAYS`` and would find nothing further
    back. The times are widened to whole seconds: a trade that is fetched again does no harm.
    """
    return f"kraken-history backfill {_range(symbol, start, end)}"


def coverage_command(symbol: str, start: datetime, end: datetime) -> str:
    """The command that shows what is stored of ``[start, end)`` and what is missing, quoted for a shell."""
    return f"kraken-history coverage {_range(symbol, start, end)}"


def moment_text(moment: datetime) -> str:
    """A time in UTC for a sentence: to the minute, or to the second if it is not a whole minute."""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%d %H:%M}Z" if utc == utc.replace(second=0, microsecond=0) else f"{utc:%Y-%m-%d %H:%M:%S}Z"


def duration_text(duration: timedelta) -> str:
    """A length of time in its two largest units: ``2,192 d 2 h``, ``3 h 12 min``, ``1 min 5 s``, ``0.3 s``."""
    seconds = duration.total_seconds()
    if seconds < 1:
        return f"{seconds:.1g} s"
    left = int(seconds)
    parts: list[str] = []
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count:,} {unit}" if count else "")
    return " ".join(part for part in parts[:2] if part)


def _range(symbol: str, start: datetime, end: datetime) -> str:
    return f"{shlex.quote(symbol)} --from {_second_before(start)} --to {_second_after(end)}"


def _second_before(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None, microsecond=0).isoformat() + "Z"


def _second_after(moment: datetime) -> str:
    return _second_before(moment + _SECOND if moment.microsecond else moment)
