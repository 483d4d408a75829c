"""Many candles of one symbol in COPY's text format. Text throughout, because a record per candle is far slower."""

from collections.abc import Sequence
from datetime import date, timedelta
from functools import lru_cache

from msgspec import Struct

from kraken_history.records import CandleSource

COLUMNS = (
    "symbol", "timestamp", "interval_minutes", "open", "high", "low", "close", "volume", "quote_volume",
    "trade_count", "vwap", "source",
)  # fmt: skip
"""The columns of :func:`copy_text`."""

_MINUTE_S, _DAY_S = 60, 86_400
_EPOCH_DAY = date(1970, 1, 1)
_CLOCK = [f"T{minute // 60:02}:{minute % 60:02}Z" for minute in range(1440)]


class Candles(Struct, gc=False):
    """Candles in columns, in order of time. Prices and volumes are text.

    Attributes:
        times: Open times in unix seconds.
    """

    times: list[int]
    opens: Sequence[str]
    highs: Sequence[str]
    lows: Sequence[str]
    closes: Sequence[str]
    volumes: Sequence[str]
    quote_volumes: Sequence[str]
    trade_counts: Sequence[str]
    vwaps: Sequence[str]


def copy_text(symbol: str, candles: Candles, source: CandleSource) -> bytes:
    """One-minute candles in COPY's text format, with the columns of :data:`COLUMNS`."""
    c = candles
    stamps = [_day(time // _DAY_S) + _CLOCK[time % _DAY_S // _MINUTE_S] for time in c.times]
    rows = zip(
        stamps, c.opens, c.highs, c.lows, c.closes, c.volumes, c.quote_volumes, c.trade_counts, c.vwaps, strict=True
    )
    lines = [
        f"{symbol}\t{stamp}\t1\t{open_}\t{high}\t{low}\t{close}\t{volume}\t{quote_volume}\t{count}\t{vwap}\t{source}\n"
        for stamp, open_, high, low, close, volume, quote_volume, count, vwap in rows
    ]
    return "".join(lines).encode()


@lru_cache(maxsize=16)
def _day(number: int) -> str:
    return (_EPOCH_DAY + timedelta(days=number)).isoformat()
