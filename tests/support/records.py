"""Trades and candles to send from a producer to the database."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec

from kraken_history.records import HistoricalCandle, HistoricalTrade
from kraken_history.storing.candle_deltas import build_candles

NOON = datetime(2025, 11, 10, 12, tzinfo=UTC)
SPACING_S = 7
"""Seconds between two trades of a symbol: eight or nine per minute."""


def trade(id_: int, symbol: str = "BTC/USDT", *, misc: str = "") -> HistoricalTrade:
    """A trade whose fields all follow from its id."""
    return HistoricalTrade(
        id_,
        symbol,
        NOON + timedelta(seconds=SPACING_S * id_),
        Decimal(100_000 + id_ * 37 % 101) / 10,
        Decimal(1 + id_ % 13).scaleb(-8),
        "buy" if id_ % 3 else "sell",
        "market" if id_ % 2 else "limit",
        misc,
    )


def trades(ids: Iterable[int], symbol: str = "BTC/USDT") -> list[HistoricalTrade]:
    """Several of them."""
    return [trade(id_, symbol) for id_ in ids]


def candle(of: Sequence[HistoricalTrade]) -> HistoricalCandle:
    """The exchange's own candle of trades of one symbol and minute."""
    (only,) = build_candles(of)
    return msgspec.structs.replace(only, source="ohlc")
