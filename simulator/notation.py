"""How Kraken writes numbers and times.

Inside the simulator a price is a whole number of ticks, a volume a whole number of lots of 1e-8, and a time
a whole number of nanoseconds; text appears only here, so that no digit is ever rounded.
"""

from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache

VOLUME_DECIMALS = 8
"""``lot_decimals`` of every pair in the recorded AssetPairs."""

NS = 1_000_000_000


def fixed(units: int, decimals: int) -> str:
    """``fixed(44780, 8)`` is ``0.00044780``: the engine's digits, trailing zeros kept."""
    if not decimals:
        return str(units)
    text = str(units).zfill(decimals + 1)
    return f"{text[:-decimals]}.{text[-decimals:]}"


def normalized(units: int, decimals: int) -> str:
    """The same number without trailing zeros, as ``f"{Decimal(…).normalize():f}"`` writes it."""
    if not decimals:
        return str(units)
    return fixed(units, decimals).rstrip("0").rstrip(".")


def units_of(number: Decimal, decimals: int) -> int:
    """The whole number of units of ``10**-decimals``.

    Raises:
        ValueError: The number is not finite, or has more decimals than that.
    """
    if not number.is_finite():
        raise ValueError(f"expected a finite number, got {number}")
    scaled = number.scaleb(decimals)
    if scaled != int(scaled):
        raise ValueError(f"expected at most {decimals} decimals, got {number}")
    return int(scaled)


@lru_cache(maxsize=4096)
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")


def microsecond_time(time_ns: int) -> str:
    """``2026-09-25T17:48:26.844359Z``: cut to microseconds, as in the recorded ``trade`` frames."""
    seconds, rest = divmod(time_ns, NS)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


def nanosecond_time(time_ns: int) -> str:
    """``2026-09-25T17:48:26.844359566Z``: nine digits, as in the recorded ``ohlc`` frames."""
    seconds, rest = divmod(time_ns, NS)
    return f"{_second(seconds)}.{rest:09d}Z"


def rest_time(time_ns: int) -> float:
    """The float64 that REST Trades shows, about a tenth of a microsecond off the exact time.

    Dividing two whole numbers rounds once; ``time_ns / 1e9`` would round twice and often give a neighbour.
    """
    return time_ns / NS
