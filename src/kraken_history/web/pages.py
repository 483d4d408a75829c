"""Pages of a range: as many records as fit, and where the next page begins."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from kraken_history.intervals import width_of
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.coverage import Coverage, CoveredSpan
from kraken_history.reading.gaps import GapsChoice, TradeGapsChoice
from kraken_history.records import HistoricalCandle, HistoricalTrade

_INSTANT = timedelta(microseconds=1)

Range = tuple[datetime, datetime]


class CandlePage(Struct, frozen=True):
    """Candles, and the start of the next page; None if there is none."""

    candles: Sequence[HistoricalCandle]
    next: datetime | None


class TradePage(Struct, frozen=True):
    """Trades, and the start of the next page; None if there is none."""

    trades: Sequence[HistoricalTrade]
    next: datetime | None


async def candle_page(
    provider: HistoricalDataProvider,
    symbol: str,
    interval: int,
    span: Range,
    limit: int,
    gaps: GapsChoice | None,
    *,
    as_of: datetime | None = None,
) -> CandlePage:
    """The first ``limit`` candles of a range; ``as_of`` and ``gaps`` as the provider takes them."""
    found = await provider.get_candles(symbol, interval, *span, limit + 1, gaps=gaps, as_of=as_of)
    page = found[:limit]
    more = len(found) > limit
    return CandlePage(page, page[-1].timestamp + width_of(interval) if more else None)


async def trade_page(
    provider: HistoricalDataProvider, symbol: str, span: Range, limit: int, gaps: TradeGapsChoice
) -> TradePage:
    """The first ``limit`` trades of a range.

    A page ends between two instants, so that the next one can begin at a time. If more trades than ``limit`` share its
    first instant, it holds all of them.
    """
    found = await provider.get_trades(symbol, *span, limit + 1, gaps=gaps)
    if len(found) <= limit:
        return TradePage(found, None)
    last = found[-1].timestamp
    whole = [trade for trade in found if trade.timestamp < last]
    if whole:
        return TradePage(whole, last)
    after = last + _INSTANT
    of_instant = await provider.get_trades(symbol, last, after, gaps="ignore")
    return TradePage(of_instant, after if after < span[1] else None)


def coverage_page(coverage: Coverage, limit: int) -> tuple[Sequence[CoveredSpan], datetime | None]:
    """The first spans of a coverage, and where the next page begins."""
    spans = coverage.spans[:limit]
    return spans, spans[-1].end if len(coverage.spans) > limit else None
