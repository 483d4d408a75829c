"""What a page of REST Trades proves: the one place that decides up to when the tape is complete. Pure.

The only sign of the end of a pair's trades is a page with fewer than 1,000 rows. An answer that is short, or empty, by
mistake looks the same, and a fetcher that believes it never asks for the trades after it. Therefore a short page that
leaves much of the wanted time empty, or lacks a trade that is stored, is not believed:

- If it is at least half full, rows may be missing inside a full page. The next page begins at its last trade, as after
  a full page, and tells whether more follow. However often this happens, it never ends a fetch.
- Otherwise it is requested again. The second answer counts, unless it lacks a known trade too.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from msgspec import Struct

from kraken_history.clock import CLOCK_SLACK
from kraken_history.errors import IncompletePage, MisleadingPage
from kraken_history.kraken.rest import TRADES_PAGE, TradesPage
from kraken_history.leaps import find_leaping_within
from kraken_history.ledger import IdRanges
from kraken_history.records import (
    HistoricalTrade,
    RefusedTrade,
    TimeRange,
    UnreachableTrades,
    UnreadableRow,
    unix_ns,
    utc_from_unix_ns,
)

REST_LAG = timedelta(seconds=5)
"""How far a page may lag behind the time of its request.

Kraken's proxy caches an answer for about two seconds, and Kraken's clock may be a little behind ours.
"""

_MICROSECOND = timedelta(microseconds=1)
_EARLY_END = timedelta(minutes=5)  # a page that ends longer before the wanted time is requested again
_HALF_FULL = TRADES_PAGE // 2  # rows; quiet pairs have fewer, so their ends cost no further request
_EARLY_BEGINNING = timedelta(seconds=1)  # a page that begins longer before its cursor answers another request


class TapePage(Struct, frozen=True):
    """An answer to a :class:`TapeRequest`, with what it proves.

    Attributes:
        since: The requested cursor, in nanoseconds, inclusive.
        asked_at: Time of the request.
        trades: In Kraken's order.
        last: Kraken's cursor behind this page, in nanoseconds.
        is_full: False for the last page of the tape; True if the next one must tell whether more trades follow.
        unidentified: Rows without a trade id that the page before did not have. They cannot be stored exactly once.
        covered: Time of which the page shows every trade; None if it proves nothing.
        is_in_doubt: True if the page proves nothing, because it lacks a trade that is known.
        refused: Trades of the page with a value that is not valid.
        unreadable: Rows of the page whose trade id cannot be read.
        unreachable: Trades between those of the page that Kraken does not show, because a page cannot hold all trades
            of their instant.
    """

    symbol: str
    since: int
    asked_at: datetime
    trades: Sequence[HistoricalTrade]
    last: int
    is_full: bool
    unidentified: int
    covered: TimeRange | None
    is_in_doubt: bool = False
    refused: Sequence[RefusedTrade] = ()
    unreachable: Sequence[UnreachableTrades] = ()
    unreadable: Sequence[UnreadableRow] = ()

    @property
    def ids(self) -> list[int]:
        """The ids of its trades, refused ones included."""
        return [*(trade.id for trade in self.trades), *(trade.id for trade in self.refused)]

    @property
    def is_stuck(self) -> bool:
        """True if the page is full and ends where it begins, so that its cursor leads to the same page again."""
        return self.is_full and self.last <= self.since

    def followed_by(self, further: "TapePage") -> "TapePage":
        """One page of a stuck one, and of one that begins after its instant.

        The instant itself is not proven, and the ids between the two pages are out of reach.
        """
        instant = utc_from_unix_ns(self.last)
        reached = max(self.ids, default=0)
        lost = [*self.unreachable, *further.unreachable]
        if self.ids and further.ids and not further.is_in_doubt and min(further.ids) > reached + 1:
            lost.append(UnreachableTrades(self.symbol, instant, reached + 1, min(further.ids) - 1))
        covered = further.covered
        return msgspec.structs.replace(
            further,
            since=self.since,
            trades=[*self.trades, *further.trades],
            refused=[*self.refused, *further.refused],
            unidentified=self.unidentified + further.unidentified,
            covered=covered and time_range(max(covered.start, instant + _MICROSECOND), covered.end),
            unreachable=lost,
            unreadable=[*self.unreadable, *further.unreadable],
        )

    def check(self) -> None:
        """Raise if the page proves nothing.

        Raises:
            IncompletePage: It lacks a trade that is known. The trades that it shows are true nevertheless.
        """
        if self.is_in_doubt:
            raise IncompletePage(self.symbol, self.since)

    def check_advance(self) -> None:
        """Raise if no next page follows from this one, although it is full.

        Raises:
            MisleadingPage: It ends where it begins: more trades share one instant than a page holds, or Kraken repeats
                itself. The next request would return the same page for ever.
        """
        check_advance(self.symbol, self.since, self.last, is_full=self.is_full)

    def begins_after(self, end: datetime) -> bool:
        """True if all trades of the page were made at ``end`` or later."""
        if not self.trades or self.unidentified:
            return False
        times = [self.trades[0].timestamp, *(trade.timestamp for trade in self.refused)]
        return all(moment is not None and moment >= end for moment in times)

    def before_its_trades(self) -> "TapePage":
        """The page without its trades. It proves that nobody traded between ``since`` and the first of them."""
        first = self.trades[0].timestamp
        covered = self.covered and time_range(self.covered.start, first)
        return msgspec.structs.replace(
            self, trades=(), refused=(), unreadable=(), last=unix_ns(first), is_full=True, covered=covered
        )


class TapeRequest(Struct, frozen=True):
    """A wanted page, and the facts about it that are known before it is requested.

    Attributes:
        since: Nanoseconds, inclusive.
        until: Up to when trades are wanted; None if ids are wanted, not a time.
        begins_with_a_trade: True if a trade is known at ``since``, which the page must show.
        continues: True if ``since`` is the cursor of an earlier page, which proved the time before it.
        after: The instant that ``since`` passes over. The page need not show trades up to there.
    """

    symbol: str
    since: int
    until: datetime | None
    begins_with_a_trade: bool
    continues: bool = False
    after: datetime | None = None

    def is_doubtful(self, answer: TradesPage, *, asked_at: datetime, newest_held: datetime | None) -> bool:
        """True if the answer must be confirmed by a second one: it claims to be the last page, or an id in it leaps.

        Args:
            newest_held: Time of the newest stored trade that a last page must show; None if none is known.
        """
        if find_leaping_within(answer.trades):
            return True
        if answer.rows >= TRADES_PAGE:
            return False
        return self._ends_early(answer, asked_at) or self._lacks_a_trade(answer, newest_held)

    def goes_on(self, answer: TradesPage, *, asked_at: datetime, newest_held: datetime | None) -> bool:
        """True if the next page must tell whether more trades follow an answer that is not full."""
        if not _HALF_FULL <= answer.rows < TRADES_PAGE or answer.last <= self.since:
            return False
        return self._ends_early(answer, asked_at) or self._lacks_a_trade(answer, newest_held)

    def is_contradicted(self, answer: TradesPage, *, first: TradesPage, newest_held: datetime | None) -> bool:
        """True if the second answer lacks a trade that is known, or shows less than the first one did."""
        if answer.rows >= TRADES_PAGE:
            return False
        return answer.rows < first.rows or self._lacks_a_trade(answer, newest_held)

    def page(self, answer: TradesPage, asked_at: datetime, *, goes_on: bool = False) -> TapePage:
        """The page of an answer that is trusted.

        Args:
            goes_on: Whether more trades may follow, although the answer is not full.
        """
        # The page before proved the time up to its last trade, whose stored time may lie a little before the cursor.
        start = utc_from_unix_ns(self.since) - (CLOCK_SLACK if self.continues else timedelta())
        end = utc_from_unix_ns(self._end_of(answer)) if goes_on else self._complete_to(answer, asked_at)
        return TapePage(
            self.symbol,
            self.since,
            asked_at,
            answer.trades,
            max(answer.last, self.since),
            goes_on or answer.rows >= TRADES_PAGE,
            answer.unidentified - answer.unidentified_again,
            time_range(start, end),
            refused=answer.refused,
            unreadable=answer.unreadable,
        )

    def doubtful_page(self, answers: Sequence[TradesPage], asked_at: datetime) -> TapePage:
        """A page with the trades of all answers, which proves nothing."""
        trades = {trade.id: trade for answer in answers for trade in answer.trades}
        ordered = sorted(trades.values(), key=lambda trade: trade.id)
        refused = [trade for answer in answers for trade in answer.refused]
        unreadable = [row for answer in answers for row in answer.unreadable]
        return TapePage(
            self.symbol, self.since, asked_at, ordered, self.since, False, 0, None, is_in_doubt=True, refused=refused,
            unreadable=unreadable,
        )  # fmt: skip

    def _complete_to(self, answer: TradesPage, asked_at: datetime) -> datetime:
        """Up to when an answer shows every trade: to its last one, or further if it is the last page.

        The time behind the last trade is proven only up to the wanted time, because an early end was looked for up to
        there. If no time is wanted, no early end was looked for.
        """
        if answer.rows < TRADES_PAGE and self.until is not None:
            return min(self.until, asked_at - REST_LAG)
        return utc_from_unix_ns(self._end_of(answer))

    def _ends_early(self, answer: TradesPage, asked_at: datetime) -> bool:
        wanted = self.until and min(self.until, asked_at)
        return wanted is not None and self._end_of(answer) < unix_ns(wanted - _EARLY_END)

    def _lacks_a_trade(self, answer: TradesPage, newest_held: datetime | None) -> bool:
        if not answer.rows and self.begins_with_a_trade:
            return True
        if newest_held is None or self._reaches_the_end(answer):
            return False
        if self.after is not None and newest_held <= self.after + CLOCK_SLACK:
            return False
        # The times of one trade over REST and over the WebSocket may differ by a microsecond.
        if answer.rows:
            return unix_ns(newest_held - CLOCK_SLACK) > self._end_of(answer)
        return unix_ns(newest_held + CLOCK_SLACK) >= self.since

    def _reaches_the_end(self, answer: TradesPage) -> bool:
        """True if the page shows the wanted time to its end, so that it does not matter which later trades it lacks."""
        return self.until is not None and bool(answer.rows) and self._end_of(answer) >= unix_ns(self.until)

    def _end_of(self, answer: TradesPage) -> int:
        if answer.trades:
            times = [trade.timestamp for trade in answer.refused if trade.timestamp is not None]
            return unix_ns(max([answer.trades[-1].timestamp, *times]))
        return answer.last if answer.rows else self.since


def without_doubted(answer: TradesPage, other: TradesPage) -> TradesPage:
    """An answer without the trades whose ids leap, unless the other answer shows them too.

    They count as rows whose id cannot be read: as such they prove nothing, the page is as long as it was, and they
    become dead letters.
    """
    doubted = find_leaping_within(answer.trades) - {trade.id for trade in other.trades}
    if not doubted:
        return answer
    trades = [trade for trade in answer.trades if trade.id not in doubted]
    unreadable = [
        UnreadableRow(trade.symbol, f"its id {trade.id} leaps, and a second answer does not show it", str(trade))
        for trade in answer.trades
        if trade.id in doubted
    ]
    return msgspec.structs.replace(
        answer,
        trades=trades,
        unidentified=answer.unidentified + len(unreadable),
        unreadable=[*answer.unreadable, *unreadable],
    )


def time_range(start: datetime, end: datetime) -> TimeRange | None:
    """The range, or None if it is empty."""
    return TimeRange(start, end) if start < end else None


def check_beginning(answer: TradesPage, symbol: str, since: int) -> None:
    """Check that a page answers the request.

    Raises:
        MisleadingPage: It begins long before ``since``.
    """
    if answer.trades and unix_ns(answer.trades[0].timestamp + _EARLY_BEGINNING) < since:
        raise MisleadingPage(symbol, since, f"it begins at {answer.trades[0].timestamp}")


def check_advance(symbol: str, since: int, last: int, *, is_full: bool) -> None:
    """Check that a full page ends after its beginning.

    Raises:
        MisleadingPage: The page is full and ends where it begins.
    """
    if is_full and last <= since:
        raise MisleadingPage(symbol, since, f"it is full and does not advance past {last}")


def passed_over(page: TapePage) -> IdRanges:
    """The ids between a page's first and last trade that are not on it, and that REST may show.

    The trades of the last instant of a full page may continue on the next page. They are left out.
    """
    if not page.trades or page.unidentified:  # a row without an id may be any of them
        return IdRanges()
    end = max(trade.id for trade in page.trades)
    if page.is_full:
        newest = page.trades[-1].timestamp
        end = min(trade.id for trade in page.trades if trade.timestamp == newest)
    unreachable = IdRanges((each.first_id, each.last_id + 1) for each in page.unreachable)
    return IdRanges.of(trade_id for trade_id in page.ids if trade_id <= end).holes - unreachable
