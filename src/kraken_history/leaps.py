"""Decides whether a trade's id leaps absurdly far from those that are known. Pure.

Kraken numbers the trades of a pair one by one, so an id can be ahead of the newest known one only by the trades that
were made in between. The busiest pair, XBT/USD, had 109,116,693 trades from October 2013 to September 2026, 0.27 per
second, and more than 1,000 in the busiest millisecond that is known. An id beyond the bounds below is a mistake, of the
exchange or on the way. If it is none, nothing is lost: REST shows the trade, and then it is stored.
"""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from kraken_history.records import HistoricalTrade

AT_ONCE = 100_000
"""Ids that a trade may be ahead in no time: a hundred times the trades of the busiest known millisecond."""

PER_SECOND = 100
"""Further ids that it may be ahead per second in between: 370 times the mean of the busiest pair over twelve years."""

MOST = 1_000_000_000
"""Ids that it may be ahead at most, however much later it was made: nine times all trades of the busiest pair."""


class KnownTrade(Struct, frozen=True):
    """A trade that is certain."""

    id: int
    timestamp: datetime


def leaps(trade_id: int, moment: datetime, *, known: KnownTrade | None) -> bool:
    """True if a trade is absurdly far from a known one, in either direction.

    Args:
        known: The nearest known trade; None if none is known, so that the numbering has just begun to be known.
    """
    if known is None:
        return trade_id > MOST
    ahead = abs(trade_id - known.id)
    if ahead <= AT_ONCE:
        return False
    return ahead > min(AT_ONCE + PER_SECOND * abs((moment - known.timestamp).total_seconds()), MOST)


def find_leaping(
    trades: Sequence[HistoricalTrade], *, lowest: KnownTrade | None, highest: KnownTrade | None
) -> set[int]:
    """The ids of one symbol's trades that leap from the known ones, and from the others that do not leap.

    Args:
        lowest, highest: The ends of the known ids; None if none is known. Between them nothing leaps.
    """
    if not trades:
        return set()
    ids = [trade.id for trade in trades]
    if (
        lowest is not None
        and highest is not None
        and lowest.id - AT_ONCE <= min(ids) <= max(ids) <= highest.id + AT_ONCE
    ):
        return set()  # nearly always
    found: set[int] = set()
    known = highest
    for trade in sorted(trades, key=lambda trade: trade.id):
        if highest is None or trade.id > highest.id:
            known = _known_after(trade, known, found)
    known = lowest
    if lowest is not None:
        for trade in sorted(trades, key=lambda trade: -trade.id):
            if trade.id < lowest.id:
                known = _known_after(trade, known, found)
    return found


def _known_after(trade: HistoricalTrade, known: KnownTrade | None, found: set[int]) -> KnownTrade | None:
    if leaps(trade.id, trade.timestamp, known=known):
        found.add(trade.id)
        return known
    return KnownTrade(trade.id, trade.timestamp)


def find_leaping_within(trades: Sequence[HistoricalTrade]) -> set[int]:
    """The ids of one page's trades that leap from the others of it, of which the first is certain."""
    if not trades:
        return set()
    first = KnownTrade(trades[0].id, trades[0].timestamp)
    return find_leaping(trades, lowest=first, highest=first)


class NewestIds:
    """The newest trade of each symbol, without those that leap.

    An id that leaps counts once a second trade is near it, because one mistake is seldom followed by another like it.
    """

    def __init__(self) -> None:
        self._newest: dict[str, KnownTrade] = {}
        self._doubted: dict[str, KnownTrade] = {}

    @property
    def by_symbol(self) -> dict[str, int]:
        """Symbol → the highest id that does not leap."""
        return {symbol: trade.id for symbol, trade in self._newest.items()}

    def note(self, symbol: str, trade_id: int, moment: datetime) -> None:
        """Take note of a trade that was received."""
        newest, trade = self._newest.get(symbol), KnownTrade(trade_id, moment)
        if not leaps(trade_id, moment, known=newest):
            if newest is None or trade_id > newest.id:
                self._newest[symbol] = trade
            return
        doubted = self._doubted.get(symbol)
        if doubted is not None and trade_id != doubted.id and not leaps(trade_id, moment, known=doubted):
            self._newest[symbol] = max(trade, doubted, key=lambda each: each.id)
            del self._doubted[symbol]
        else:
            self._doubted[symbol] = trade
