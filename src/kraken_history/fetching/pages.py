"""Pages of REST Trades as they are asked for, and when one may be believed to be the last.

That a page is not full is all that tells the end of a pair's trades. An answer that is short, or empty, by mistake
looks the same, and whoever believes it never asks for what was traded after it. So one that leaves much of the wanted
time empty is asked for again, and the second may lack no trade that is known. :func:`fetch_all_trades`, which knows
none, asks once.
"""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from functools import partial

import asyncpg
from msgspec import Struct

from kraken_history.clock import CLOCK_SLACK, Clock, utc_now
from kraken_history.completeness.absence import note_passed_over
from kraken_history.database.connections import write_again
from kraken_history.errors import MalformedMessage, MisleadingPage
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import TRADES_PAGE, TradesPage
from kraken_history.ledger import IdRanges
from kraken_history.records import unix_ns
from kraken_history.runtime import telemetry
from kraken_history.storing.pages import parts_of
from kraken_history.storing.store import Store, Stored
from kraken_history.symbols import Pair

SECOND_LOOK_S = 2.5
"""After this long an answer that is in doubt is asked for again; Cloudflare keeps one for about two seconds."""

REST_LAG = timedelta(seconds=5)
"""An answer may lack what was traded so shortly before the question.

Kraken's proxy keeps an answer for about two seconds, and its clock may be a little behind ours.
"""

_log = telemetry.get_logger("fetching")

_EARLY_END = timedelta(minutes=5)  # trades that end longer before the time that is wanted are asked for twice


async def fetch_trades_page(rest: KrakenRest, pair: Pair, since: int = 0) -> TradesPage:
    """One page of trades from ``since`` (nanoseconds, inclusive) on.

    Raises:
        KrakenBusy, ServiceUnavailable: After several attempts still no answer.
        MisleadingPage: The answer contradicts the request; see :func:`check_page`.
        MalformedMessage: It is no page.
    """
    page = await rest.fetch_trades_page(pair, since)
    check_page(page, pair.symbol, since)
    return page


def check_page(page: TradesPage, symbol: str, since: int) -> None:
    """See that a page answers what was asked, and that another follows from it unless it is the last.

    Raises:
        MisleadingPage: It is full and does not advance, which would go on for ever: either more trades were made in
            one instant than a page holds, or Kraken repeats itself. Or it begins long before ``since``.
    """
    if page.rows >= TRADES_PAGE and page.last <= since:
        raise MisleadingPage(symbol, since, f"it is full and its cursor does not advance, last={page.last}")
    check_beginning(page, symbol, since)


async def fetch_all_trades(rest: KrakenRest, pair: Pair, since: int = 0) -> AsyncIterator[TradesPage]:
    """Every page from ``since`` to the first that is not full. Each repeats one or more trades of the one before.

    Nothing is stored, and nothing asked for twice; errors as :func:`fetch_trades_page`.
    """
    while True:
        page = await fetch_trades_page(rest, pair, since)
        if page.rows:
            yield page
        if page.rows < TRADES_PAGE:
            return
        since = page.last


class Expectation(Struct, frozen=True):
    """What is known before a page is asked for, against which an answer is held that seems to be the last.

    Attributes:
        since: What is asked for, in nanoseconds.
        until: How far trades are wanted.
        newest_held: Time of the newest stored trade that the answer must show; None where none is known.
        begins_with_a_trade: One was seen at ``since``, so the answer must show it again.
    """

    symbol: str
    since: int
    until: datetime
    newest_held: datetime | None
    begins_with_a_trade: bool

    def wants_second_look(self, page: TradesPage) -> bool:
        """True if the page claims to be the last, and that is not to be believed yet."""
        if page.rows >= TRADES_PAGE:
            return False
        return self._lacks_a_trade(page) or self._end_of(page) < unix_ns(self.until - _EARLY_END)

    def check_second(self, page: TradesPage, first: TradesPage) -> None:
        """See that the second look at what the first did not settle contradicts nothing that is known.

        Raises:
            MalformedMessage: It lacks a trade that is stored, or one that was there before.
        """
        if page.rows < TRADES_PAGE and (page.rows < first.rows or self._lacks_a_trade(page)):
            raise MalformedMessage(f"a page of {self.symbol} from {self.since} lacks a trade that is known there", b"")

    def _lacks_a_trade(self, page: TradesPage) -> bool:
        if not page.rows and self.begins_with_a_trade:
            return True
        if self.newest_held is None:
            return False
        # The times of one trade over REST and over the socket differ by a microsecond.
        if page.rows:
            return unix_ns(self.newest_held - CLOCK_SLACK) > self._end_of(page)
        return unix_ns(self.newest_held + CLOCK_SLACK) >= self.since

    def _end_of(self, page: TradesPage) -> int:
        if page.trades:
            return unix_ns(page.trades[-1].timestamp)
        return page.last if page.rows else self.since


async def expect(
    pool: asyncpg.Pool, symbol: str, since: int, *, until: datetime, shows: datetime, begins_with_a_trade: bool
) -> Expectation:
    """Look up what the answer to a question must have; see :class:`Expectation`.

    Args:
        shows: What was traded up to then, the answer shows: not later than :data:`REST_LAG` before the question, as
            the live feed is ahead of REST.
    """
    newest: datetime | None = await pool.fetchval(_NEWEST_HELD, symbol, shows)
    return Expectation(symbol, since, until, newest, begins_with_a_trade)


# The index of trades begins with the time: of a symbol that was traded just now and not in the hour before, the entries
# of all others would be read. Then nothing is known.
_NEWEST_HELD = """
    SELECT CASE WHEN newest_timestamp <= $2 THEN newest_timestamp ELSE (
        SELECT timestamp FROM trades
        WHERE symbol = $1 AND timestamp <= $2 AND timestamp > $2::timestamptz - interval '1 hour'
        ORDER BY timestamp DESC LIMIT 1
    ) END
    FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'
"""


_EARLY = timedelta(seconds=1)  # a page that begins so long before what was asked for answers another question


def check_beginning(page: TradesPage, symbol: str, since: int) -> None:
    """See that a page answers what was asked.

    Raises:
        MisleadingPage: It begins long before ``since``.
    """
    if page.trades and unix_ns(page.trades[0].timestamp + _EARLY) < since:
        raise MisleadingPage(symbol, since, f"it begins at {page.trades[0].timestamp}, before that")


async def fetch_and_store(
    pool: asyncpg.Pool, store: Store, rest: KrakenRest, pair: Pair, since: int, *, work: str, now: Clock = utc_now
) -> tuple[TradesPage, Stored]:
    """Fetch one page, store it, and keep which ids it passed over.

    Args:
        work: What for, for the metrics.

    Raises:
        KrakenError, ServiceUnavailable, MalformedMessage: As the client says; nothing is stored.
    """
    asked_at = now()
    page = await rest.fetch_trades_page(pair, since)
    check_beginning(page, pair.symbol, since)
    written = [await write_again(partial(store.write, part)) for part in parts_of(page.trades) or [()]]
    stored = Stored(
        sum(part.new_trades for part in written),
        sum(part.known_trades for part in written),
        sum(part.new_candles for part in written),
        next((part.holes for part in reversed(written) if part.new_trades), {}),  # only what is new tells of holes
    )
    telemetry.FETCHED_PAGES.labels(symbol=pair.symbol, work=work).inc()
    telemetry.FETCHED_TRADES.labels(symbol=pair.symbol, work=work).inc(stored.new_trades)
    await note_absence(pool, pair.symbol, page, asked_at=asked_at)
    return page, stored


def passed_over(page: TradesPage) -> IdRanges:
    """The ids between a page's first and last trade that are not on it.

    What shares the last instant of a full page may go on on the next one, and is left out.
    """
    if not page.trades:
        return IdRanges()
    end = max(trade.id for trade in page.trades)
    if page.rows >= TRADES_PAGE:
        newest = page.trades[-1].timestamp
        end = min(trade.id for trade in page.trades if trade.timestamp == newest)
    return IdRanges.of(trade.id for trade in page.trades if trade.id <= end).holes


async def note_absence(pool: asyncpg.Pool, symbol: str, page: TradesPage, *, asked_at: datetime) -> None:
    """Record which ids a page, requested at ``asked_at``, passed over; log those that are proven absent by it."""
    absent = await note_passed_over(pool, symbol, passed_over(page), seen_at=asked_at)
    if absent:
        _log.info("proven_absent", symbol=symbol, count=len(absent), first=next(iter(absent))[0])
