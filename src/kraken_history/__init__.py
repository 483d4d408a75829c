"""Kraken's market data, complete, from one shared database.

What is imported from here needs asyncpg and msgspec only; the provider, which brings asyncpg, is loaded when it
is first asked for.
"""

from typing import TYPE_CHECKING

from kraken_history.errors import (
    HistoryError,
    KrakenBusy,
    KrakenError,
    KrakenRefused,
    MalformedMessage,
    SchemaMismatch,
    ServiceUnavailable,
    UnknownSymbol,
    UsageError,
)
from kraken_history.records import (
    DataGap,
    ExternalIndicator,
    HistoricalCandle,
    HistoricalTrade,
    TimeRange,
)

if TYPE_CHECKING:
    from kraken_history.provider import HistoricalDataProvider

__all__ = [
    "DataGap",
    "ExternalIndicator",
    "HistoricalCandle",
    "HistoricalDataProvider",
    "HistoricalTrade",
    "HistoryError",
    "KrakenBusy",
    "KrakenError",
    "KrakenRefused",
    "MalformedMessage",
    "SchemaMismatch",
    "ServiceUnavailable",
    "TimeRange",
    "UnknownSymbol",
    "UsageError",
]


def __getattr__(name: str) -> object:
    if name != "HistoricalDataProvider":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kraken_history.provider import HistoricalDataProvider

    globals()[name] = HistoricalDataProvider
    return HistoricalDataProvider
