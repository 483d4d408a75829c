"""Fetches trades whose ids are missing in the ledger.

Healing always starts from the ledger in the database, so a lost, repeated or late job does no harm.
"""

from datetime import datetime, timedelta

import asyncpg
from msgspec import Struct

from kraken_history.clock import Clock
from kraken_history.completeness.hole_times import HoleSpan, locate, since_before
from kraken_history.completeness.holes import missing_of
from kraken_history.fetching.backfill_targets import is_of_a_backfill
from kraken_history.fetching.tape import SECOND_LOOK_S, TapeReader
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import TRADES_PAGE
from kraken_history.ledger import IdRange, IdRanges
from kraken_history.records import unix_ns
from kraken_history.runtime import telemetry
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair

LEFT_TO_A_BACKFILL = 20 * TRADES_PAGE
"""Holes with more ids than this are left to the backfill that is heading for them."""

_log = telemetry.get_logger("healing")


class Healed(Struct, frozen=True):
    """The outcome of healing one range of ids.

    Attributes:
        missing: The ids of the range that are still missing.
        stored: Trades that were new to the database.
        next_since: The cursor from which fetching continues, in nanoseconds; None if there is nothing more to fetch.
        candles: Minutes that had no candle before.
    """

    missing: IdRanges
    stored: int
    pages: int
    next_since: int | None
    candles: int = 0


async def wanted_span(
    pool: asyncpg.Pool, symbol: str, hole: IdRange, *, wanted_from: datetime | None = None
) -> HoleSpan | None:
    """The time of the hole's trades that healing must fetch; None if it must fetch none.

    If a backfill is heading for a long hole, or ended where the hole begins, only the wanted history is fetched. The
    rest belongs to the backfill, which leaps over stored trades, or was never requested.

    Args:
        wanted_from: The beginning of the history that the settings want.
    """
    span = await locate(pool, symbol, hole)
    if hole[1] - hole[0] <= LEFT_TO_A_BACKFILL or not await is_of_a_backfill(pool, symbol, span.since):
        return span
    if wanted_from is None or span.end <= wanted_from + timedelta(hours=1):
        return None
    start = max(span.start, wanted_from)
    return HoleSpan(max(span.since, unix_ns(wanted_from)), start, max(span.end, start))


async def heal(
    pool: asyncpg.Pool,
    store: Store,
    rest: KrakenRest,
    pair: Pair,
    hole: IdRange,
    *,
    since: int | None = None,
    max_pages: int = 20,
    now: Clock | None = None,
    second_look_s: float = SECOND_LOOK_S,
) -> Healed:
    """Fetch the ids of ``hole`` that are still missing, page by page; each page is stored before the next request.

    Args:
        hole: May include ids that are not missing: one pass fills all holes in it, and leaps over held ids.
        since: The cursor that an earlier call returned; by default the last stored trade before the hole.
        max_pages: Number of pages after which this returns, so that a long hole becomes several short jobs.

    Raises:
        KrakenError, ServiceUnavailable, MalformedMessage: As the client raises them. Fetched pages are stored.
    """
    reader = TapeReader(pool, store, rest, pair, work="heal", now=now, second_look_s=second_look_s)
    stored = pages = candles = 0
    reached: int | None = None  # every id below it has been on a page, or passed over
    cursor = since
    ahead = missing = await missing_of(pool, pair.symbol, hole)
    while ahead and pages < max_pages:
        first = next(iter(ahead))[0]
        if cursor is None or (reached is not None and first - reached > TRADES_PAGE):
            cursor = max(cursor or 0, await since_before(pool, pair.symbol, first))
        page = await reader.read(cursor, until=None, begins_with_a_trade=pages > 0, continues=pages > 0)
        written = await reader.store(page)
        page.check()
        pages += 1
        stored += written.new_trades
        candles += written.new_candles
        missing = await missing_of(pool, pair.symbol, hole)
        reached = max(page.ids, default=-1) + 1
        ahead = missing - IdRanges([(0, reached)]) if page.is_full else IdRanges()
        cursor = page.last if ahead else None
        if ahead:
            page.check_advance()
    _log.info("healed", symbol=pair.symbol, first=hole[0], stored=stored, missing=len(missing), pages=pages)
    return Healed(missing, stored, pages, cursor, candles)
