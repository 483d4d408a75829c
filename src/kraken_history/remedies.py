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


def _range(symbol: str, start: datetime, end: datetime) -> str:
    return f"{shlex.quote(symbol)} --from {_second_before(start)} --to {_second_after(end)}"


def _second_before(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None, microsecond=0).isoformat() + "Z"


def _second_after(moment: datetime) -> str:
    return _second_before(moment + _SECOND if moment.microsecond else moment)
