"""The content of a file, from its name: Kraken names its downloads after the pair's ``altname`` and the interval."""

import re

from msgspec import Struct

from kraken_history.csv_import.refusal import CsvError

# The intervals of the downloads and of REST OHLC, except one minute, from which they are computed.
DERIVED_INTERVALS = frozenset({5, 15, 30, 60, 240, 720, 1440, 10080, 21600})

# Kraken's quarterly increments: XBTUSD_1_Q1_2026.csv.
_QUARTER = r"(?:_(?:Q[1-4]_?\d{4}|\d{4}_?Q[1-4]))?"
_NAME = re.compile(rf"(?P<pair>.+?){_QUARTER}(?:_(?P<interval>\d{{1,5}}))?{_QUARTER}\.csv", re.IGNORECASE | re.ASCII)
_ALTNAME = re.compile(r"[A-Za-z0-9.]+", re.ASCII)


class Content(Struct, frozen=True):
    """The content of a file, according to its name.

    Attributes:
        pair: The ``altname``, or the text in its place.
        interval_minutes: Interval of its candles; None for time and sales, which are trades.
    """

    pair: str
    interval_minutes: int | None

    @property
    def is_derived(self) -> bool:
        """True for candles that are computed from one-minute candles."""
        return self.interval_minutes in DERIVED_INTERVALS


def content_of(file: str, *, any_pair: bool = False) -> Content:
    """Read ``XBTUSD_1.csv`` as one-minute candles of XBTUSD, and ``XBTUSD.csv`` as its trades.

    A quarter at the end of the name, as in ``XBTUSD_1_Q1_2026.csv``, is skipped.

    Args:
        any_pair: True if the pair is known otherwise. Then any text may be in its place, including a number that is not
            an interval: ``march_2026.csv`` holds trades.

    Raises:
        CsvError: The name does not follow Kraken's pattern.
    """
    name = file.rpartition("/")[2]
    match = _NAME.fullmatch(name)
    if match is None or not (any_pair or _ALTNAME.fullmatch(match["pair"])):
        raise CsvError(file, None, "expected a name like XBTUSD_1.csv or XBTUSD.csv, as Kraken's downloads: rename it")
    interval = None if match["interval"] is None else int(match["interval"])
    if interval not in (None, 1) and interval not in DERIVED_INTERVALS:
        if any_pair:
            return Content(f"{match['pair']}_{match['interval']}", None)
        raise CsvError(file, None, f"expected an interval of Kraken's downloads in the name, got {interval} minutes")
    return Content(match["pair"], interval)
