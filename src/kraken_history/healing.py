"""Fetches the trades that are missing inside the ledger.

Everything here works from the ledger in the database, so a lost job, a repeated one or one that comes too
late does no harm.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from typing import TypeVar

import asyncpg
from msgspec import Struct

from kraken_history import telemetry
from kraken_history.absence import find_waiting, note_passed_over, passed_over
from kraken_history.errors import KrakenError
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import TRADES_PAGE, TradesPage
from kraken_history.ledger import IdRange, IdRanges
from kraken_history.postgres import Connection
from kraken_history.records import MINUTE, HistoricalTrade
from kraken_history.store import Store, Stored
from kraken_history.symbols import Pair

T = TypeVar("T")

Clock = Callable[[], datetime]
"""The time as Kraken's clock has it, aware."""

LEFT_TO_A_BACKFILL = 20 * TRADES_PAGE
"""Ids of a hole past which a backfill that leads into it is left to fill it."""

# A time stored from REST can lie a microsecond after the true one, and the next trade share its instant.
CLOCK_SLACK = timedelta(milliseconds=1)

_MOST_TRIES = 4
_MOST_DAYS = 20  # in one transaction

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLY = timedelta(seconds=1)  # a page that begins so long before what was asked for answers another question

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


class HoleSpan(Struct, frozen=True):
    """When the trades of a hole were made.

    Attributes:
        since: Where to begin to fetch, in nanoseconds.
        start: The last stored trade before the hole, or where that part of it begins that is wanted.
        end: The first stored trade after the hole.
    """

    since: int
    start: datetime
    end: datetime


def utc_now() -> datetime:
    """This machine's clock."""
    return datetime.now(UTC)


def unix_ns(moment: datetime) -> int:
    """Nanoseconds since 1970, which is what ``since`` of REST Trades takes."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


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


async def find_due_holes(pool: asyncpg.Pool, *, now: datetime) -> dict[str, IdRanges]:
    """:func:`find_holes`, without the ids that Kraken was seen to pass over less than a minute ago."""
    waiting = await find_waiting(pool, now=now)
    holes = {s: missing - waiting.get(s, IdRanges()) for s, missing in (await find_holes(pool)).items()}
    return {symbol: missing for symbol, missing in holes.items() if missing}


def neighbourhoods(holes: IdRanges) -> list[IdRange]:
    """Holes that one pass over pages fills together: those less than a page apart become one range."""
    runs: list[IdRange] = []
    for start, stop in holes:
        if runs and start - runs[-1][1] < TRADES_PAGE:
            runs[-1] = runs[-1][0], stop
        else:
            runs.append((start, stop))
    return runs


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


async def write_again(write: Callable[[], Awaitable[T]]) -> T:
    """Write, and once more where another transaction was in the way and won: nothing of it was stored then.

    On TimescaleDB two writers that make chunks may deadlock, whatever their symbols.
    """
    for _ in range(_MOST_TRIES - 1):
        with suppress(asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
            return await write()
    return await write()


def check_beginning(page: TradesPage, symbol: str, since: int) -> None:
    """See that a page answers what was asked.

    Raises:
        KrakenError: It begins long before ``since``.
    """
    if page.trades and unix_ns(page.trades[0].timestamp + _EARLY) < since:
        raise KrakenError([f"a page of {symbol} from {since} begins at {page.trades[0].timestamp}"])


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
    await note_passed_over(pool, pair.symbol, passed_over(page), seen_at=asked_at)
    return page, stored


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
            raise KrakenError([f"a page of {pair.symbol} from {cursor} does not advance past {page.last}"])
        cursor = page.last
    _log.info("healed", symbol=pair.symbol, first=hole[0], stored=stored, missing=len(missing), pages=pages)
    return Healed(missing, stored, pages, cursor if ahead else None)


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


async def since_before(pool: asyncpg.Pool | Connection, symbol: str, trade_id: int) -> int:
    """Where to start fetching so as to meet ``trade_id``, in nanoseconds: the last stored trade before it.

    Trades have no index by id. The candles that are built from trades have one by their first id: those
    around the hole bound the time in which the last trade before it is looked for. (The candle of the hole's
    own minute is mostly the exchange's, being fuller, and tells no ids.) Where retention has dropped the trades,
    the candle's minute is what is left; where it has dropped both, the ledger's beginning.
    """
    around = await pool.fetchrow(
        """
        SELECT
            (SELECT timestamp FROM candles WHERE symbol = $1 AND first_trade_id < $2
             ORDER BY first_trade_id DESC LIMIT 1) AS low,
            (SELECT timestamp + interval '1 minute' FROM candles WHERE symbol = $1 AND first_trade_id > $2
             ORDER BY first_trade_id LIMIT 1) AS high,
            oldest_timestamp AS oldest, newest_timestamp AS newest
        FROM (SELECT) AS always LEFT JOIN data_sync_status ON symbol = $1 AND data_type = 'trades'
        """,
        symbol,
        trade_id,
    )
    assert around is not None
    low = around["low"] or around["oldest"]
    if low is None:
        return 0
    # The bounds are given as values, so that the planner opens, and locks, the partitions between them only.
    moment: datetime | None = await pool.fetchval(
        """
        SELECT timestamp FROM trades
        WHERE symbol = $1 AND id < $2 AND timestamp >= $3 AND timestamp < $4 ORDER BY timestamp DESC LIMIT 1
        """,
        symbol,
        trade_id,
        low,
        around["high"] or around["newest"] + MINUTE,
    )
    return unix_ns((moment or low) - CLOCK_SLACK)


async def span_of(
    pool: asyncpg.Pool, symbol: str, hole: IdRange, *, wanted_from: datetime | None = None
) -> HoleSpan | None:
    """When the hole's trades were made; None if the hole is not to be filled by healing.

    Of a long hole into which a backfill leads, or which begins where one ended, only what is wanted anyway is
    fetched: the rest is for the backfill, which leaps over what it finds, or was never asked for.

    Args:
        wanted_from: Where the history begins that the settings want.
    """
    since = await since_before(pool, symbol, hole[0])
    start = _EPOCH + timedelta(microseconds=since // 1000) + (CLOCK_SLACK if since else timedelta())
    end = await _first_after(pool, symbol, hole[1], start - CLOCK_SLACK)
    if hole[1] - hole[0] > LEFT_TO_A_BACKFILL and await _is_of_a_backfill(pool, symbol, since):
        if wanted_from is None or end <= wanted_from + timedelta(hours=1):
            return None
        start = max(start, wanted_from)
        since = max(since, unix_ns(wanted_from))
    return HoleSpan(since, start, max(end, start))


async def _first_after(pool: asyncpg.Pool, symbol: str, trade_id: int, start: datetime) -> datetime:
    """Time of the first stored trade with this id or a higher one, looked for from ``start`` on."""
    end: datetime | None = await pool.fetchval(
        """
        SELECT coalesce(
            (SELECT timestamp FROM candles WHERE symbol = $1 AND first_trade_id >= $2 ORDER BY first_trade_id LIMIT 1),
            (SELECT newest_timestamp FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'))
        """,
        symbol,
        trade_id,
    )
    if end is None:
        return start
    moment: datetime | None = await pool.fetchval(
        """
        SELECT timestamp FROM trades
        WHERE symbol = $1 AND id >= $2 AND timestamp >= $3 AND timestamp < $4 ORDER BY timestamp LIMIT 1
        """,
        symbol,
        trade_id,
        start,
        end + MINUTE,
    )
    return moment or end


async def _is_of_a_backfill(pool: asyncpg.Pool, symbol: str, since: int) -> bool:
    """True if a backfill has this time still before it, or ended here before the present."""
    found: bool = await pool.fetchval(
        """
        SELECT EXISTS (
            SELECT FROM backfills
            WHERE symbol = $1 AND CASE state
                WHEN 'done' THEN abs(next_since - $2::bigint) <= 2000000000
                ELSE next_since <= $2::bigint + 1000000000 AND $2 < extract(epoch FROM target_end) * 1000000000
            END
        )
        """,
        symbol,
        since,
    )
    return found
