"""Fetches the trades that are missing inside the ledger.

Everything here works from the ledger in the database, so a lost job, a repeated one or one that comes too
late does no harm.
"""

from datetime import datetime, timedelta

import asyncpg
from msgspec import Struct

from kraken_history import telemetry
from kraken_history.errors import KrakenError
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import TRADES_PAGE
from kraken_history.ledger import IdRange, IdRanges
from kraken_history.store import Store
from kraken_history.symbols import Pair

# A time stored from REST can lie a microsecond after the true one, and the next trade share its instant.
_CLOCK_SLACK = timedelta(milliseconds=1)

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


async def find_holes(pool: asyncpg.Pool) -> dict[str, IdRanges]:
    """By symbol, the ids missing inside the ledger; symbols without a hole are left out."""
    rows = await pool.fetch(
        """
        SELECT symbol, ledger_holes(id_ranges, absent_id_ranges) AS holes
        FROM data_sync_status WHERE data_type = 'trades' AND NOT isempty(id_ranges)
        """
    )
    holes = {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["holes"] or ()) for row in rows}
    return {symbol: missing for symbol, missing in holes.items() if missing}


async def heal(
    pool: asyncpg.Pool,
    store: Store,
    rest: KrakenRest,
    pair: Pair,
    hole: IdRange,
    *,
    since: int | None = None,
    max_pages: int = 20,
) -> Healed:
    """Fetch the ids of ``hole`` that are still missing, page by page, each stored before the next.

    Args:
        since: Where an earlier call left off; by default the last stored trade before the hole.
        max_pages: After so many pages return, so that a long hole becomes several short jobs.

    Raises:
        KrakenError, ServiceUnavailable, MalformedMessage: As the client says; what was fetched is stored.
    """
    stored = pages = 0
    missing = await missing_of(pool, pair.symbol, hole)
    cursor = since
    while missing and pages < max_pages:
        if cursor is None:
            cursor = await since_before(pool, pair.symbol, next(iter(missing))[0])
        page = await rest.fetch_trades_page(pair, cursor)
        pages += 1
        stored += (await store.write(page.trades)).new_trades
        missing = await missing_of(pool, pair.symbol, hole)
        passed = any(trade.id >= hole[1] for trade in page.trades)
        if passed or page.rows < TRADES_PAGE:
            cursor = None
            break
        if page.last <= cursor:
            # More trades in one instant than a page holds, or an answer that leads nowhere.
            raise KrakenError([f"a page of {pair.symbol} from {cursor} does not advance past {page.last}"])
        cursor = page.last
    _log.info("healed", symbol=pair.symbol, first=hole[0], stored=stored, missing=len(missing), pages=pages)
    return Healed(missing, stored, pages, cursor if missing else None)


async def missing_of(pool: asyncpg.Pool, symbol: str, ids: IdRange) -> IdRanges:
    """Those of ``ids`` that the ledger neither holds nor knows to be absent."""
    ranges = await pool.fetchval(
        """
        SELECT int8multirange(int8range($2, $3)) - id_ranges - absent_id_ranges
        FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'
        """,
        symbol,
        *ids,
    )
    return IdRanges((r.lower, r.upper) for r in ranges or ())


async def since_before(pool: asyncpg.Pool, symbol: str, trade_id: int) -> int:
    """Where to start fetching so as to meet ``trade_id``, in nanoseconds: the last stored trade before it.

    Trades have no index by id. The candles that are built from trades have one by their first id: those
    around the hole bound the time in which the last trade before it is looked for. (The candle of the hole's
    own minute is mostly the exchange's, being fuller, and tells no ids.)
    """
    moment: datetime | None = await pool.fetchval(
        """
        SELECT coalesce(
            (SELECT t.timestamp FROM trades t
             WHERE t.symbol = $1 AND t.id < $2
               AND t.timestamp >= coalesce(around.low, '-infinity') AND t.timestamp < around.high
             ORDER BY t.timestamp DESC LIMIT 1),
            around.low, around.oldest)
        FROM (
            SELECT
                (SELECT timestamp FROM candles WHERE symbol = $1 AND first_trade_id < $2
                 ORDER BY first_trade_id DESC LIMIT 1) AS low,
                coalesce(
                    (SELECT timestamp + interval '1 minute' FROM candles WHERE symbol = $1 AND first_trade_id > $2
                     ORDER BY first_trade_id LIMIT 1),
                    'infinity') AS high,
                (SELECT oldest_timestamp FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades') AS oldest
        ) AS around
        """,
        symbol,
        trade_id,
    )
    if moment is None:
        return 0
    moment -= _CLOCK_SLACK
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000
