"""Storing one page of REST Trades."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from kraken_history.records import HistoricalTrade

_MOST_DAYS = 20  # in one transaction


def parts_of(trades: Sequence[HistoricalTrade]) -> list[Sequence[HistoricalTrade]]:
    """A page's trades, in parts to be stored one by one, in their order; one part unless they span months.

    A page of a pair that is hardly traded spans years, and each day has a partition, or chunk, of its own: all of
    them in one transaction would take more locks than a server has room for.
    """
    parts: list[Sequence[HistoricalTrade]] = []
    for _, group in groupby(enumerate(_days_before(trades)), key=lambda at_days: at_days[1] // _MOST_DAYS):
        places = [at for at, _ in group]
        parts.append(trades[places[0] : places[-1] + 1])
    return parts


def _days_before(trades: Sequence[HistoricalTrade]) -> Iterator[int]:
    """For each trade, how often the day has changed before it."""
    changes = 0
    for before, trade in zip([*trades[:1], *trades], trades, strict=False):
        changes += before.timestamp.date() != trade.timestamp.date()
        yield changes
