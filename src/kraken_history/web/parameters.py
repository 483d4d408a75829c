"""The parameters of requests: as the OpenAPI document lists them, and read with the words of the command line."""

from datetime import datetime
from typing import Annotated

from fastapi import Query

from kraken_history.cli.instants import instant_option
from kraken_history.errors import InvalidRange, UsageError
from kraken_history.reading.gaps import GapsChoice, TradeGapsChoice
from kraken_history.web.models import Format

MOST_ROWS = 10_000
"""Maximum number of records per page of JSON."""

DEFAULT_ROWS = 1_000

_TIME = "ISO 8601, in UTC without an offset, or now, today, yesterday"

Symbol = Annotated[
    str,
    Query(min_length=1, max_length=64, description="Any name of the symbol", examples=["BTC/USDT"]),
]
Interval = Annotated[
    str,
    Query(max_length=16, description="In minutes, or as 15m, 1h, 1d, 1w", examples=["60"]),
]
Resolution = Annotated[
    str | None, Query(max_length=16, description="Width of a bucket, as an interval: 1d for a map of days")
]
Start = Annotated[str | None, Query(max_length=64, description=f"Beginning of the range: {_TIME}")]
End = Annotated[str | None, Query(max_length=64, description=f"End of the range, not included: {_TIME}")]
Limit = Annotated[int, Query(ge=1, le=MOST_ROWS, description="Maximum number of records of a page")]
CandleGaps = Annotated[
    GapsChoice | None,
    Query(
        description="raise: fail if part of the range is missing. ignore: what is stored. pad: make up candles."
        " By default raise; without start, and with as_of, ignore"
    ),
]
TradeGaps = Annotated[
    TradeGapsChoice, Query(description="raise: fail if part of the range is missing. ignore: what is stored")
]
AsOf = Annotated[str | None, Query(max_length=64, description=f"As it was known at this time: {_TIME}")]
Wanted = Annotated[
    Format | None,
    Query(alias="format", description="By default as the header Accept asks, else JSON. ccxt: rows of fetch_ohlcv"),
]


def moment(name: str, text: str | None) -> datetime | None:
    """The time that a parameter gives; None without it."""
    return instant_option(name, text)


def span(start: str | None, end: str | None) -> tuple[datetime, datetime]:
    """A range of which both bounds must be given.

    Raises:
        UsageError: One is not given, or is not a time.
        InvalidRange: The range is empty or reversed.
    """
    low, high = moment("start", start), moment("end", end)
    if low is None or high is None:
        raise UsageError("expected both start and end, such as start=2026-01-31&end=2026-02-01")
    if low >= high:
        raise InvalidRange(low, high)
    return low, high


_MEDIA: dict[str, Format] = {
    "text/csv": "csv",
    "application/vnd.apache.arrow.stream": "arrow",
    "application/json": "json",
}


def chosen_format(wanted: Format | None, accept: str | None) -> Format:
    """The format of the answer: as the parameter says, else the first known one of the header, else JSON."""
    if wanted is not None:
        return wanted
    for part in (accept or "").split(","):
        found = _MEDIA.get(part.partition(";")[0].strip().lower())
        if found is not None:
            return found
    return "json"
