"""How many days one transaction may span, because each day has partitions or chunks whose locks count.

A server has room for ``max_locks_per_transaction × max_connections`` locks, 6,400 by default, for all its sessions.
"""

from collections.abc import Sequence
from datetime import date

from msgspec import Struct

from kraken_history.records import HistoricalCandle, HistoricalTrade

MOST_DAYS = 20
"""Days whose trades are stored in one transaction. A day that has no chunks yet takes some 15 locks."""


class Rows(Struct, frozen=True):
    """Rows that are written in one transaction."""

    trades: Sequence[HistoricalTrade]
    candles: Sequence[HistoricalCandle]


def by_days(
    trades: Sequence[HistoricalTrade], candles: Sequence[HistoricalCandle], *, most_days: int = MOST_DAYS
) -> list[Rows]:
    """Divide rows into parts of at most ``most_days`` different days, the oldest first; at least one part.

    Within a part, rows keep their order.
    """
    days = sorted({trade.timestamp.date() for trade in trades} | {candle.timestamp.date() for candle in candles})
    if len(days) <= most_days:
        return [Rows(trades, candles)]
    part_of: dict[date, int] = {day: at // most_days for at, day in enumerate(days)}
    count = part_of[days[-1]] + 1
    of_trades: list[list[HistoricalTrade]] = [[] for _ in range(count)]
    of_candles: list[list[HistoricalCandle]] = [[] for _ in range(count)]
    for trade in trades:
        of_trades[part_of[trade.timestamp.date()]].append(trade)
    for candle in candles:
        of_candles[part_of[candle.timestamp.date()]].append(candle)
    return [Rows(*part) for part in zip(of_trades, of_candles, strict=True)]


def halved(rows: Rows) -> list[Rows] | None:
    """Two parts of half as many days; None if all rows are of one day."""
    days = {trade.timestamp.date() for trade in rows.trades} | {candle.timestamp.date() for candle in rows.candles}
    if len(days) < 2:
        return None
    return by_days(rows.trades, rows.candles, most_days=-(-len(days) // 2))
