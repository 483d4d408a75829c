"""The one reader of Kraken's tape: pages of REST Trades, checked, and stored with what they prove.

The only sign of the end of a pair's trades is a page with fewer than 1,000 rows. An answer that is short, or empty, by
mistake looks the same, and a fetcher that believes it never asks for the trades after it. Therefore a short page is
requested again if it leaves much of the wanted time empty or lacks a trade that is stored. The second answer counts,
unless it lacks a known trade too.

Backfill, gap filling and healing all read here, so "complete up to here" is decided once: see :attr:`TapePage.covered`.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Literal

import asyncpg
import msgspec
from msgspec import Struct

from kraken_history.clock import CLOCK_SLACK, Clock, utc_now
from kraken_history.completeness.absence import note_passed_over
from kraken_history.completeness.covered_time import cover
from kraken_history.completeness.holes import find_newest_held
from kraken_history.database.connections import Connection
from kraken_history.errors import IncompletePage, MisleadingPage
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import TRADES_PAGE, TradesPage
from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalTrade, TimeRange, unix_ns, utc_from_unix_ns
from kraken_history.runtime import telemetry
from kraken_history.storing.pages import NOTHING_MORE, Alongside, Part, StoredPage, write_page
from kraken_history.storing.store import Store, Stored
from kraken_history.symbols import Pair

SECOND_LOOK_S = 2.5
"""Seconds before a page in doubt is requested again; Cloudflare caches an answer for about two."""

REST_LAG = timedelta(seconds=5)
"""How far a page may lag behind the time of its request.

Kraken's proxy caches an answer for about two seconds, and Kraken's clock may be a little behind ours.
"""

Work = Literal["backfill", "gap", "heal"]

_EARLY_END = timedelta(minutes=5)  # a page that ends longer before the wanted time is requested again
_EARLY_BEGINNING = timedelta(seconds=1)  # a page that begins longer before its cursor answers another request

_log = telemetry.get_logger("fetching")


class TapePage(Struct, frozen=True):
    """One answer to :meth:`TapeReader.read`.

    Attributes:
        since: The requested cursor, in nanoseconds, inclusive.
        asked_at: Time of the request.
        trades: In Kraken's order.
        last: Kraken's cursor behind this page, in nanoseconds.
        is_full: False for the last page of the tape.
        unidentified: Rows without a trade id that the page before did not have. They cannot be stored exactly once.
        covered: Time of which the page shows every trade; None if it proves nothing.
        is_in_doubt: True if the page proves nothing, because it lacks a trade that is known.
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

    def check(self) -> None:
        """Raise if the page proves nothing.

        Raises:
            IncompletePage: It lacks a trade that is known. The trades that it shows are true nevertheless.
        """
        if self.is_in_doubt:
            raise IncompletePage(self.symbol, self.since, "it lacks a trade that is known there")

    def check_advance(self) -> None:
        """Raise if no next page follows from this one, although it is full.

        Raises:
            MisleadingPage: It ends where it begins: more trades share one instant than a page holds, or Kraken repeats
                itself. The next request would return the same page for ever.
        """
        _check_advance(self.symbol, self.since, self.last, is_full=self.is_full)

    def begins_after(self, end: datetime) -> bool:
        """True if all that the page shows was traded at ``end`` or later."""
        return bool(self.trades) and not self.unidentified and self.trades[0].timestamp >= end

    def before_its_trades(self) -> "TapePage":
        """The page without its trades: a proof that nothing was traded between ``since`` and the first of them."""
        first = self.trades[0].timestamp
        covered = self.covered and _range(self.covered.start, first)
        return msgspec.structs.replace(self, trades=(), last=unix_ns(first), covered=covered)


class TapeReader:
    """Reads the trades of one pair from Kraken, page by page, and stores them.

    Args:
        work: What the pages are for, as the metrics name it.
        now: Kraken's present.
        second_look_s: Seconds before a page in doubt is requested again.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        store: Store,
        rest: KrakenRest,
        pair: Pair,
        *,
        work: Work,
        now: Clock = utc_now,
        second_look_s: float = SECOND_LOOK_S,
    ) -> None:
        self._pool = pool
        self._store = store
        self._rest = rest
        self._pair = pair
        self._work = work
        self._now = now
        self._second_look_s = second_look_s

    async def read(self, since: int, *, until: datetime | None, begins_with_a_trade: bool) -> TapePage:
        """Request the page from ``since`` on, a second time if it is in doubt that it is the last one.

        Args:
            since: Nanoseconds, inclusive.
            until: Up to when trades are wanted; None if ids are wanted, not a time.
            begins_with_a_trade: True if an earlier page ended with a trade at ``since``, which this one must repeat.

        Raises:
            KrakenBusy, KrakenRefused, ServiceUnavailable, MalformedMessage: As the client raises them.
            MisleadingPage: The page begins long before ``since``: it answers another request.
        """
        asked_at = self._now()
        answer = await self._request(since)
        newest_held = await self._newest_held(answer, asked_at)
        if not _is_in_doubt(answer, since, until and min(until, asked_at), newest_held, begins_with_a_trade):
            return self._page(answer, since, asked_at, begins_with_a_trade)
        await asyncio.sleep(self._second_look_s)
        first, asked_at = answer, self._now()
        answer = await self._request(since)
        newest_held = await self._newest_held(answer, asked_at)
        if _contradicts(answer, first, since, newest_held, begins_with_a_trade):
            return self._doubtful_page(answer, first, since, asked_at)
        return self._page(answer, since, asked_at, begins_with_a_trade)

    async def store(self, page: TapePage, *, also: Alongside = NOTHING_MORE) -> StoredPage:
        """Store a page, and in the same transactions that its time is covered; record the ids that it passes over.

        A page in doubt has its trades stored, and nothing else: neither coverage nor ``also``.

        Args:
            also: What the caller commits with the rows, for example a cursor.
        """
        alongside = NOTHING_MORE if page.is_in_doubt else _Covering(page, also)
        stored = await write_page(self._store, page.trades, also=alongside)
        telemetry.FETCHED_PAGES.labels(symbol=self._pair.symbol, work=self._work).inc()
        telemetry.FETCHED_TRADES.labels(symbol=self._pair.symbol, work=self._work).inc(stored.new_trades)
        if not page.is_in_doubt:
            await self._note_absence(page)
        return stored

    async def _request(self, since: int) -> TradesPage:
        answer = await self._rest.fetch_trades_page(self._pair, since)
        check_beginning(answer, self._pair.symbol, since)
        return answer

    async def _newest_held(self, answer: TradesPage, asked_at: datetime) -> datetime | None:
        """The newest stored trade that a last page must show; full pages need not show any."""
        if answer.rows >= TRADES_PAGE:
            return None
        return await find_newest_held(self._pool, self._pair.symbol, asked_at - REST_LAG)

    def _page(self, answer: TradesPage, since: int, asked_at: datetime, begins_with_a_trade: bool) -> TapePage:
        # The page before proved the time up to its last trade, whose stored time may lie a little before the cursor.
        start = utc_from_unix_ns(since) - (CLOCK_SLACK if begins_with_a_trade else timedelta())
        return TapePage(
            self._pair.symbol,
            since,
            asked_at,
            answer.trades,
            max(answer.last, since),
            answer.rows >= TRADES_PAGE,
            answer.unidentified - answer.unidentified_again,
            _range(start, _complete_to(answer, asked_at)),
        )

    def _doubtful_page(self, answer: TradesPage, first: TradesPage, since: int, asked_at: datetime) -> TapePage:
        trades = {trade.id: trade for trade in (*first.trades, *answer.trades)}
        ordered = sorted(trades.values(), key=lambda trade: trade.id)
        return TapePage(self._pair.symbol, since, asked_at, ordered, since, False, 0, None, is_in_doubt=True)

    async def _note_absence(self, page: TapePage) -> None:
        absent = await note_passed_over(self._pool, page.symbol, passed_over(page), seen_at=page.asked_at)
        if absent:
            _log.info("proven_absent", symbol=page.symbol, count=len(absent), first=next(iter(absent))[0])


class _Covering(Alongside):
    """Records in the transaction of each part of a page that its time is covered, and lets ``also`` add to it."""

    def __init__(self, page: TapePage, also: Alongside) -> None:
        self._page = page
        self._also = also

    async def before(self, connection: Connection) -> bool:
        return await self._also.before(connection)

    async def after(self, connection: Connection, part: Part, stored: Stored) -> bool:
        covered = self._covered_by(part)
        if covered is not None:
            await cover(connection, self._page.symbol, covered)
        return await self._also.after(connection, part, stored)

    def _covered_by(self, part: Part) -> TimeRange | None:
        covered = self._page.covered
        if covered is None or part.is_last or part.newest is None:
            return covered
        return _range(covered.start, min(part.newest, covered.end))


def _range(start: datetime, end: datetime) -> TimeRange | None:
    return TimeRange(start, end) if start < end else None


def _complete_to(answer: TradesPage, asked_at: datetime) -> datetime:
    """Up to when a page shows every trade: to its last trade, or to the present where nothing comes after it."""
    if answer.rows < TRADES_PAGE:
        return asked_at - REST_LAG
    return answer.trades[-1].timestamp if answer.trades else utc_from_unix_ns(answer.last)


def _is_in_doubt(
    answer: TradesPage, since: int, until: datetime | None, newest_held: datetime | None, begins_with_a_trade: bool
) -> bool:
    """True if the page claims to be the last one, and is not to be believed yet."""
    if answer.rows >= TRADES_PAGE:
        return False
    ends_early = until is not None and _end_of(answer, since) < unix_ns(until - _EARLY_END)
    return ends_early or _lacks_a_trade(answer, since, newest_held, begins_with_a_trade)


def _contradicts(
    answer: TradesPage, first: TradesPage, since: int, newest_held: datetime | None, begins_with_a_trade: bool
) -> bool:
    """True if the second look lacks a trade that is known, or shows less than the first one did."""
    if answer.rows >= TRADES_PAGE:
        return False
    return answer.rows < first.rows or _lacks_a_trade(answer, since, newest_held, begins_with_a_trade)


def _lacks_a_trade(answer: TradesPage, since: int, newest_held: datetime | None, begins_with_a_trade: bool) -> bool:
    if not answer.rows and begins_with_a_trade:
        return True
    if newest_held is None:
        return False
    # The times of one trade over REST and over the socket differ by a microsecond.
    if answer.rows:
        return unix_ns(newest_held - CLOCK_SLACK) > _end_of(answer, since)
    return unix_ns(newest_held + CLOCK_SLACK) >= since


def _end_of(answer: TradesPage, since: int) -> int:
    if answer.trades:
        return unix_ns(answer.trades[-1].timestamp)
    return answer.last if answer.rows else since


def passed_over(page: TapePage | TradesPage) -> IdRanges:
    """The ids between a page's first and last trade that are not on it.

    The trades of the last instant of a full page may continue on the next page. They are left out.
    """
    if not page.trades:
        return IdRanges()
    end = max(trade.id for trade in page.trades)
    if page.is_full if isinstance(page, TapePage) else page.rows >= TRADES_PAGE:
        newest = page.trades[-1].timestamp
        end = min(trade.id for trade in page.trades if trade.timestamp == newest)
    return IdRanges.of(trade.id for trade in page.trades if trade.id <= end).holes


def check_beginning(answer: TradesPage, symbol: str, since: int) -> None:
    """Check that a page answers the request.

    Raises:
        MisleadingPage: It begins long before ``since``.
    """
    if answer.trades and unix_ns(answer.trades[0].timestamp + _EARLY_BEGINNING) < since:
        raise MisleadingPage(symbol, since, f"it begins at {answer.trades[0].timestamp}")


def _check_advance(symbol: str, since: int, last: int, *, is_full: bool) -> None:
    if is_full and last <= since:
        raise MisleadingPage(symbol, since, f"it is full and does not advance past {last}")


async def fetch_trades_page(rest: KrakenRest, pair: Pair, since: int = 0) -> TradesPage:
    """One page of trades from ``since`` (nanoseconds, inclusive) on; nothing is stored.

    Raises:
        KrakenBusy, KrakenRefused, ServiceUnavailable, MalformedMessage: As the client raises them.
        MisleadingPage: The page begins long before ``since``, or is full and does not advance.
    """
    answer = await rest.fetch_trades_page(pair, since)
    check_beginning(answer, pair.symbol, since)
    _check_advance(pair.symbol, since, answer.last, is_full=answer.rows >= TRADES_PAGE)
    return answer


async def fetch_all_trades(rest: KrakenRest, pair: Pair, since: int = 0) -> AsyncIterator[TradesPage]:
    """Every page from ``since`` to the first one that is not full. Each repeats the last trades of the one before.

    Nothing is stored, and no page is requested twice. Errors as :func:`fetch_trades_page`.
    """
    while True:
        page = await fetch_trades_page(rest, pair, since)
        if page.rows:
            yield page
        if page.rows < TRADES_PAGE:
            return
        since = page.last
