"""Kraken's market data, complete, from one shared database.

Everything imported from here needs asyncpg and msgspec only. Records and errors need msgspec alone. Modules that need
asyncpg are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from kraken_history.errors import (
    BackfillStopped,
    CoverageError,
    HistoryError,
    IncompletePage,
    InvalidChoice,
    InvalidNumber,
    InvalidRange,
    InvalidTime,
    KrakenBusy,
    KrakenError,
    KrakenHttpError,
    KrakenPaused,
    KrakenRefused,
    MalformedMessage,
    MisleadingPage,
    MissingExtra,
    MissingPackage,
    ProviderClosed,
    SchemaMismatch,
    ServiceUnavailable,
    UnknownIndicator,
    UnknownInterval,
    UnknownSymbol,
    UsageError,
)
from kraken_history.records import (
    DataGap,
    ExternalIndicator,
    HistoricalCandle,
    HistoricalTrade,
    MadeUpCandle,
    RefusedTrade,
    TimeRange,
    UnreachableTrades,
)

if TYPE_CHECKING:
    from kraken_history.backtests import (
        BacktestRun,
        EquityPoint,
        RunCoverage,
        RunSummary,
        SavedRun,
        SymbolCoverage,
        UnknownRun,
    )
    from kraken_history.blocking import BlockingHistoricalDataProvider
    from kraken_history.provider import HistoricalDataProvider
    from kraken_history.reading.coverage import Coverage, CoverageBucket, CoverageBuckets, CoveredSpan
    from kraken_history.reading.differences import Difference
    from kraken_history.reading.status import DataRange, Health, SyncStatus
    from kraken_history.reading.verification import Verification

__all__ = [
    "BackfillStopped",
    "BacktestRun",
    "BlockingHistoricalDataProvider",
    "Coverage",
    "CoverageBucket",
    "CoverageBuckets",
    "CoverageError",
    "CoveredSpan",
    "DataGap",
    "DataRange",
    "Difference",
    "EquityPoint",
    "ExternalIndicator",
    "Health",
    "HistoricalCandle",
    "HistoricalDataProvider",
    "HistoricalTrade",
    "HistoryError",
    "IncompletePage",
    "InvalidChoice",
    "InvalidNumber",
    "InvalidRange",
    "InvalidTime",
    "KrakenBusy",
    "KrakenError",
    "KrakenHttpError",
    "KrakenPaused",
    "KrakenRefused",
    "MadeUpCandle",
    "MalformedMessage",
    "MisleadingPage",
    "MissingExtra",
    "MissingPackage",
    "ProviderClosed",
    "RefusedTrade",
    "RunCoverage",
    "RunSummary",
    "SavedRun",
    "SchemaMismatch",
    "ServiceUnavailable",
    "SymbolCoverage",
    "SyncStatus",
    "TimeRange",
    "UnknownIndicator",
    "UnknownInterval",
    "UnknownRun",
    "UnknownSymbol",
    "UnreachableTrades",
    "UsageError",
    "Verification",
]

_MODULES_WITH_ASYNCPG = {
    "BacktestRun": "backtests",
    "BlockingHistoricalDataProvider": "blocking",
    "Coverage": "reading.coverage",
    "CoverageBucket": "reading.coverage",
    "CoverageBuckets": "reading.coverage",
    "CoveredSpan": "reading.coverage",
    "DataRange": "reading.status",
    "Difference": "reading.differences",
    "EquityPoint": "backtests",
    "Health": "reading.status",
    "HistoricalDataProvider": "provider",
    "RunCoverage": "backtests",
    "RunSummary": "backtests",
    "SavedRun": "backtests",
    "SymbolCoverage": "backtests",
    "SyncStatus": "reading.status",
    "UnknownRun": "backtests",
    "Verification": "reading.verification",
}

# Hidden from type checkers: to them a module with __getattr__ has every name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULES_WITH_ASYNCPG:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = getattr(import_module(f"{__name__}.{_MODULES_WITH_ASYNCPG[name]}"), name)
        return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
