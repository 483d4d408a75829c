"""Fetches the trades that are missing inside the ledger.

Everything here works from the ledger in the database, so a lost job, a repeated one or one that comes too
late does no harm.
"""

import asyncpg
from msgspec import Struct

from kraken_history.clock import Clock, utc_now
from kraken_history.completeness.hole_times import since_before
from kraken_history.completeness.holes import missing_of
from kraken_history.errors import MisleadingPage
from kraken_history.fetching.pages import fetch_and_store
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import TRADES_PAGE
from kraken_history.ledger import IdRange, IdRanges
from kraken_history.runtime import telemetry
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair

_log = telemetry.get_logger("healing")


class Healed(Struct, frozen=True):
    """What healing one range of ids came to.

    Attributes:
        missing: The ids of the range that are still missing.
        stored: Trades that were new to the database.
        next_since: Where fetching would go on, in nanoseconds; None if there is nothing more to fetch.
    """

    missing: IdRanges
    stored: int
    pages: int
    next_since: int | None


async def heal(
    pool: asyncpg.Pool,
    store: Store,
    rest: KrakenRest,
    pair: Pair,
    hole: IdRange,
    *,
    since: int | None = None,
    max_pages: int = 20,
    now: Clock = utc_now,
) -> Healed:
    """Fetch the ids of ``hole`` that are still missing, page by page, each stored before the next.

    Args:
        hole: May hold ids that are not missing: one pass fills all of its holes, and leaps over what is held.
        since: Where an earlier call left off; by default the last stored trade before the hole.
        max_pages: After so many pages return, so that a long hole becomes several short jobs.

    Raises:
        KrakenError, ServiceUnavailable, MalformedMessage: As the client says; what was fetched is stored.
    """
    stored = pages = 0
    reached: int | None = None  # no page needs to be asked for ids below
    cursor = since
    ahead = missing = await missing_of(pool, pair.symbol, hole)
    while ahead and pages < max_pages:
        first = next(iter(ahead))[0]
        if cursor is None or (reached is not None and first - reached > TRADES_PAGE):
            cursor = max(cursor or 0, await since_before(pool, pair.symbol, first))
        page, written = await fetch_and_store(pool, store, rest, pair, cursor, work="heal", now=now)
        pages += 1
        stored += written.new_trades
        missing = await missing_of(pool, pair.symbol, hole)
        if page.rows < TRADES_PAGE:
            ahead = IdRanges()
            break
        reached = max((trade.id + 1 for trade in page.trades), default=0)
        ahead = missing - IdRanges([(0, reached)])
        if ahead and page.last <= cursor:
            # More trades in one instant than a page holds, or an answer that leads nowhere.
            raise MisleadingPage(pair.symbol, cursor, f"its cursor does not advance, last={page.last}")
        cursor = page.last
    _log.info("healed", symbol=pair.symbol, first=hole[0], stored=stored, missing=len(missing), pages=pages)
    return Healed(missing, stored, pages, cursor if ahead else None)
