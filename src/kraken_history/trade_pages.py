"""Pages of REST Trades as they are asked for, and when one may be believed to be the last.

That a page is not full is all that tells the end of a pair's trades. An answer that is short, or empty, by mistake
looks the same, and whoever believes it never asks for what was traded after it. So one that leaves much of the wanted
time empty is asked for again, and neither answer may lack a trade that is known.
"""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import asyncpg
from msgspec import Struct

from kraken_history.errors import KrakenError, MalformedMessage
from kraken_history.healing import unix_ns
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import TRADES_PAGE, TradesPage
from kraken_history.symbols import Pair

SECOND_LOOK_S = 2.5
"""After this long an answer that is in doubt is asked for again; Cloudflare keeps one for about two seconds."""

REST_LAG = timedelta(seconds=5)
"""An answer may lack what was traded so shortly before the question.

Kraken's proxy keeps an answer for about two seconds, and its clock may be a little behind ours.
"""

_EARLY = timedelta(seconds=1)  # a page that begins so long before what was asked for answers another question
_EARLY_END = timedelta(minutes=5)  # trades that end longer before the time that is wanted are asked for twice


async def fetch_trades_page(rest: KrakenRest, pair: Pair, since: int = 0) -> TradesPage:
    """One page of trades from ``since`` (nanoseconds, inclusive) on.

    Raises:
        KrakenBusy, ServiceUnavailable: After several attempts still no answer.
        KrakenError: The answer leads nowhere; see :func:`check_page`.
        MalformedMessage: It is no page.
    """
    page = await rest.fetch_trades_page(pair, since)
    check_page(page, pair.symbol, since)
    return page


def check_page(page: TradesPage, symbol: str, since: int) -> None:
    """See that a page answers what was asked, and that another follows from it unless it is the last.

    Raises:
        KrakenError: It is full and does not advance, which would go on for ever: either more trades were made in
            one instant than a page holds, or Kraken repeats itself. Or it begins long before ``since``.
    """
    if page.rows >= TRADES_PAGE and page.last <= since:
        raise KrakenError([f"a full page of {symbol} from {since} does not advance past {page.last}"])
    if page.trades and unix_ns(page.trades[0].timestamp + _EARLY) < since:
        raise KrakenError([f"a page of {symbol} from {since} begins at {page.trades[0].timestamp}"])


async def fetch_all_trades(rest: KrakenRest, pair: Pair, since: int = 0) -> AsyncIterator[TradesPage]:
    """Every page from ``since`` to the tip of the tape. Each repeats one or more trades of the one before.

    Nothing is stored; errors as :func:`fetch_trades_page`.
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
        newest_held: Time of the newest trade that was stored before the question. What the live feed stores while
            the answer is under way may be newer than the answer.
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
        return unix_ns(self.newest_held - REST_LAG) > self._end_of(page)

    def _end_of(self, page: TradesPage) -> int:
        if page.trades:
            return unix_ns(page.trades[-1].timestamp)
        return page.last if page.rows else self.since


async def expect(
    pool: asyncpg.Pool, symbol: str, since: int, *, until: datetime, begins_with_a_trade: bool
) -> Expectation:
    """Look up what the answer to a question must have; see :class:`Expectation`."""
    newest: datetime | None = await pool.fetchval(
        "SELECT newest_timestamp FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'", symbol
    )
    return Expectation(symbol, since, until, newest, begins_with_a_trade)
