"""What a file holds, by its name: Kraken names its downloads after the pair's ``altname`` and the interval."""

import re

from msgspec import Struct

from kraken_history.csv_import.refusal import CsvError

# The intervals of the downloads and of REST OHLC, but for the one-minute candles that all others follow from.
DERIVED_INTERVALS = frozenset({5, 15, 30, 60, 240, 720, 1440, 10080, 21600})

_NAME = re.compile(r"(?P<pair>.+?)(?:_(?P<interval>\d{1,5}))?\.csv", re.IGNORECASE | re.ASCII)
_ALTNAME = re.compile(r"[A-Za-z0-9.]+", re.ASCII)


class Content(Struct, frozen=True):
    """What the name of a file says.

    Attributes:
        pair: The ``altname``, or whatever stands in its place.
        interval_minutes: Of its candles; None for time and sales, which are trades.
    """

    pair: str
    interval_minutes: int | None

    @property
    def is_derived(self) -> bool:
        """Candles that are computed from the one-minute candles."""
        return self.interval_minutes in DERIVED_INTERVALS


def content_of(file: str, *, any_pair: bool = False) -> Content:
    """Read ``XBTUSD_1.csv`` as one-minute candles of XBTUSD, and ``XBTUSD.csv`` as its trades.

    Args:
        any_pair: Whether the pair is known otherwise, so that any text may stand in its place.

    Raises:
        CsvError: The name is none of Kraken's.
    """
    name = file.rpartition("/")[2]
    match = _NAME.fullmatch(name)
    if match is None or not (any_pair or _ALTNAME.fullmatch(match["pair"])):
        raise CsvError(file, None, "is not named like Kraken's downloads, XBTUSD_1.csv or XBTUSD.csv: rename it")
    interval = None if match["interval"] is None else int(match["interval"])
    if interval not in (None, 1) and interval not in DERIVED_INTERVALS:
        raise CsvError(file, None, f"{interval} minutes are no interval of Kraken's")
    return Content(match["pair"], interval)
