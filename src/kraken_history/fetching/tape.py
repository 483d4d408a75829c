"""The one reader of Kraken's tape: requests pages of REST Trades, and stores them with what they prove.

Backfill, gap filling and healing all read here. :mod:`~kraken_history.fetching.pages` decides what an answer proves.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Literal

import asyncpg

from kraken_history.clock import Clock
from kraken_history.completeness.absence import note_passed_over
from kraken_history.completeness.covered_time import cover
from kraken_history.completeness.holes import find_newest_held
from kraken_history.completeness.unreachable import note_unreachable
from kraken_history.database.connections import Connection
from kraken_history.errors import MisleadingPage
from kraken_history.fetching.pages import (
    REST_LAG,
    TapePage,
    TapeRequest,
    check_advance,
    check_beginning,
    passed_over,
    time_range,
    without_doubted,
)
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import TRADES_PAGE, TradesPage
from kraken_history.leaps import find_leaping_within
from kraken_history.records import TimeRange, UnreadableRow, utc_from_unix_ns
from kraken_history.runtime import telemetry
from kraken_history.storing.contested import settle_and_note, settle_symbol
from kraken_history.storing.pages import NOTHING_MORE, Alongside, Part, StoredPage, write_page
from kraken_history.storing.store import Store, Stored
from kraken_history.symbols import Pair

SECOND_LOOK_S = 2.5
"""Seconds before a page in doubt is requested again: Cloudflare caches an answer for about two."""


_PAST_AN_INSTANT_NS = (1, 300, 1_000)
"""Steps in nanoseconds past an instant of which Kraken has more trades than a page holds.

The longer ones are needed if Kraken compares the cursor as the 64-bit float that its rows show, of which neighbours
lie about 240 ns apart.
"""

_MOST_INSTANTS = 20  # passed over in one read

Work = Literal["backfill", "gap", "heal"]


_log = telemetry.get_logger("fetching")


class TapeReader:
    """Reads the trades of one pair from Kraken, page by page, and stores them.

    Args:
        work: The work that needs the pages; a label of the metrics.
        now: Kraken's clock; by default as its answers tell it.
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
        now: Clock | None = None,
        second_look_s: float = SECOND_LOOK_S,
    ) -> None:
        self._pool = pool
        self._store = store
        self._rest = rest
        self._pair = pair
        self._work = work
        self._given_now = now
        self._second_look_s = second_look_s

    async def read(
        self, since: int, *, until: datetime | None, begins_with_a_trade: bool, continues: bool = False
    ) -> TapePage:
        """Request the page from ``since`` on, a second time if its claim to be the last one is in doubt.

        If Kraken has more trades of the instant ``since`` than a page holds, the page after that instant is part of the
        result, and the ids between the two are out of reach.

        Args:
            since: Nanoseconds, inclusive.
            until: Up to when trades are wanted; None if ids are wanted, not a time.
            begins_with_a_trade: True if a trade is known at ``since``, which the page must show.
            continues: True if ``since`` is the cursor of an earlier page.

        Raises:
            KrakenBusy, KrakenRefused, ServiceUnavailable, MalformedMessage: As the client raises them.
            MisleadingPage: The page begins long before ``since``, twice in a row: it answers another request.
        """
        page = latest = await self._read(TapeRequest(self._pair.symbol, since, until, begins_with_a_trade, continues))
        for _ in range(_MOST_INSTANTS):
            further = await self._read_past(latest, until) if latest.is_stuck else None
            if further is None:
                break
            page, latest = page.followed_by(further), further
        for lost in page.unreachable:
            _log.warning(
                "instant_overfull", symbol=lost.symbol, at=str(lost.timestamp), first=lost.first_id, last=lost.last_id
            )
        return page

    async def _read_past(self, stuck: TapePage, until: datetime | None) -> TapePage | None:
        """The page that begins after the instant of a stuck one; None if Kraken only repeats itself."""
        instant = utc_from_unix_ns(stuck.last)
        for step in _PAST_AN_INSTANT_NS:
            request = TapeRequest(stuck.symbol, stuck.last + step, until, begins_with_a_trade=False, after=instant)
            page = await self._read(request)
            if max(page.ids, default=0) > max(stuck.ids, default=0) or not (page.ids or page.unidentified):
                return page
        return None

    async def _read(self, request: TapeRequest) -> TapePage:
        since = request.since
        first, asked_at = await self._ask(since)
        newest_held = await self._newest_held(first, asked_at)
        if not request.is_doubtful(first, asked_at=asked_at, newest_held=newest_held):
            return request.page(first, asked_at)
        if request.goes_on(first, asked_at=asked_at, newest_held=newest_held) and not find_leaping_within(first.trades):
            return request.page(first, asked_at, goes_on=True)
        await asyncio.sleep(self._second_look_s)
        second, asked_at = await self._ask(since)
        first, second = without_doubted(first, second), without_doubted(second, first)
        newest_held = await self._newest_held(second, asked_at)
        if request.goes_on(second, asked_at=asked_at, newest_held=newest_held):
            return request.page(second, asked_at, goes_on=True)
        if request.is_contradicted(second, first=first, newest_held=newest_held):
            return request.doubtful_page([first, second], asked_at)
        return request.page(second, asked_at)

    async def store(self, page: TapePage, *, also: Alongside = NOTHING_MORE) -> StoredPage:
        """Store a page, and record its time as covered in the same transactions; record the ids that it passes over.

        A page in doubt has its trades stored, and ``also`` called, but nothing is concluded from it.

        Args:
            also: Further writes of the caller in these transactions, for example a cursor.
        """
        alongside = also if page.is_in_doubt else _Covering(page, also)
        stored = await write_page(self._store, page.trades, refused=page.refused, also=alongside)
        await self._put_aside(stored, page.unreadable if stored.parts else ())
        if not stored.parts:
            return stored
        telemetry.FETCHED_PAGES.labels(symbol=self._pair.symbol, work=self._work).inc()
        telemetry.FETCHED_TRADES.labels(symbol=self._pair.symbol, work=self._work).inc(stored.new_trades)
        if not page.is_in_doubt:
            await self._note_absence(page)
        return stored

    async def _ask(self, since: int) -> tuple[TradesPage, datetime]:
        """Request a page, and once more if it answers another request, as a cache before Kraken may answer."""
        try:
            return await self._ask_once(since)
        except MisleadingPage as error:
            _log.warning("page_of_another_request", symbol=self._pair.symbol, since=since, finding=error.finding)
        await asyncio.sleep(self._second_look_s)
        return await self._ask_once(since)

    async def _ask_once(self, since: int) -> tuple[TradesPage, datetime]:
        asked_at = None if self._given_now is None else self._given_now()
        begun_s = time.monotonic()
        answer = await self._rest.fetch_trades_page(self._pair, since)
        if asked_at is None:  # only now, because this answer may be the first that tells Kraken's time
            asked_at = self._rest.clock.now() - timedelta(seconds=time.monotonic() - begun_s)
        check_beginning(answer, self._pair.symbol, since)
        return answer, asked_at

    async def _newest_held(self, answer: TradesPage, asked_at: datetime) -> datetime | None:
        """Time of the newest stored trade that a last page must show; a full page need not show it."""
        if answer.rows >= TRADES_PAGE:
            return None
        return await find_newest_held(self._pool, self._pair.symbol, asked_at - REST_LAG)

    async def _put_aside(self, stored: Stored, unreadable: Sequence[UnreadableRow]) -> None:
        """Report the rows of a page that were not stored."""
        for trade in stored.refused:
            telemetry.REFUSED.labels(symbol=trade.symbol).inc()
            _log.error("refused_trade", symbol=trade.symbol, id=trade.id, reason=trade.reason)
        if stored.reused:
            telemetry.REUSED.labels(symbol=self._pair.symbol).inc(len(stored.reused))
            first = stored.reused[0].id
            _log.error("ids_begin_again", symbol=self._pair.symbol, first=first, count=len(stored.reused))
        for row in unreadable:
            _log.error("malformed_row", symbol=row.symbol, reason=row.reason)
        await self._store.put_aside(stored.refused, stored.reused, unreadable)

    async def _note_absence(self, page: TapePage) -> None:
        absent = await note_passed_over(self._pool, page.symbol, passed_over(page), seen_at=page.asked_at)
        if absent:
            await settle_symbol(self._pool, page.symbol)
            _log.info("proven_absent", symbol=page.symbol, count=len(absent), first=next(iter(absent))[0])


class _Covering(Alongside):
    """Records the time of each part of a page as covered, in its transaction, and then calls ``also``."""

    def __init__(self, page: TapePage, also: Alongside) -> None:
        self._page = page
        self._also = also

    async def before(self, connection: Connection) -> bool:
        return await self._also.before(connection)

    async def after(self, connection: Connection, part: Part, stored: Stored) -> bool:
        if part.is_last:
            await note_unreachable(connection, self._page.unreachable)
        covered = self._covered_by(part)
        if covered is not None:
            await cover(connection, self._page.symbol, covered)
            await settle_and_note(connection, self._page.symbol, (covered.start, covered.end))
        return await self._also.after(connection, part, stored)

    def _covered_by(self, part: Part) -> TimeRange | None:
        covered = self._page.covered
        if covered is None or part.is_last:
            return covered
        if part.newest is None:  # the database refused all trades of the part
            return None
        return time_range(covered.start, min(part.newest, covered.end))


async def fetch_trades_page(rest: KrakenRest, pair: Pair, since: int = 0) -> TradesPage:
    """One page of trades from ``since`` (nanoseconds, inclusive) on; nothing is stored.

    Raises:
        KrakenBusy, KrakenRefused, ServiceUnavailable, MalformedMessage: As the client raises them.
        MisleadingPage: The page begins long before ``since``, or is full and does not advance.
    """
    answer = await _fetch_page(rest, pair, since)
    check_advance(pair.symbol, since, answer.last, is_full=answer.rows >= TRADES_PAGE)
    return answer


async def fetch_all_trades(rest: KrakenRest, pair: Pair, since: int = 0) -> AsyncIterator[TradesPage]:
    """Every page from ``since`` to the first one that is not full. Each repeats the last trades of the one before.

    Nothing is stored, and no page is requested twice. If Kraken has more trades of one instant than a page holds, the
    next page begins behind the instant, and a warning names the ids between the two.

    Raises:
        KrakenBusy, KrakenRefused, ServiceUnavailable, MalformedMessage: As the client raises them.
        MisleadingPage: A page begins long before the requested time, or Kraken repeats one page for ever.
    """
    page = await _fetch_page(rest, pair, since)
    while True:
        if page.rows:
            yield page
        if page.rows < TRADES_PAGE:
            return
        if page.last > since:
            since = page.last
            page = await _fetch_page(rest, pair, since)
        else:
            since, page = await _fetch_past_instant(rest, pair, since, page)


async def _fetch_page(rest: KrakenRest, pair: Pair, since: int) -> TradesPage:
    answer = await rest.fetch_trades_page(pair, since)
    check_beginning(answer, pair.symbol, since)
    return answer


async def _fetch_past_instant(rest: KrakenRest, pair: Pair, since: int, stuck: TradesPage) -> tuple[int, TradesPage]:
    """The page behind the instant ``since``, whose trades a full page cannot hold, and the cursor that it begins at."""
    reached = _newest_id(stuck)
    for step in _PAST_AN_INSTANT_NS:
        further = await _fetch_page(rest, pair, since + step)
        if _newest_id(further) > reached or not further.rows:
            first = min((trade.id for trade in further.trades), default=reached + 1)
            if first > reached + 1:
                at = str(utc_from_unix_ns(since))
                _log.warning("instant_overfull", symbol=pair.symbol, at=at, first=reached + 1, last=first - 1)
            return since + step, further
    raise MisleadingPage(pair.symbol, since, f"it is full and does not advance past {stuck.last}")


def _newest_id(answer: TradesPage) -> int:
    return max([0, *(trade.id for trade in answer.trades), *(trade.id for trade in answer.refused)])
