"""Fetches history from REST Trades, page by page, from a cursor that is kept in the database.

A backfill is a row of ``backfills``: its target, its cursor, its state. Whoever holds the row's lease fetches a
page and commits trades, candles, ledger and cursor in one transaction; so it may die at any moment, and whoever
takes the lease next goes on from the last page that is stored. A lease is numbered (``run``): a worker that was
only slow finds its number overtaken and writes nothing.

The cursor is a time, because that is what Kraken takes; what is held is known by id. So after each page the ledger
is asked how far the ids that follow are held, and the cursor leaps to the time of the last of them.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime

import asyncpg

from kraken_history.completeness.hole_times import since_before
from kraken_history.database.connections import TRY_AGAIN, UNAVAILABLE, Connection, is_transient
from kraken_history.errors import (
    BackfillStopped,
    IncompletePage,
    KrakenBusy,
    KrakenError,
    MalformedMessage,
    ServiceUnavailable,
)
from kraken_history.fetching.backfill_targets import (
    COLUMNS,
    Backfill,
    backfill_of,
    fail_backfill,
    list_backfills,
    request_backfill,
)
from kraken_history.fetching.pages import (
    SECOND_LOOK_S,
    TapePage,
    TapeReader,
    fetch_all_trades,
    fetch_trades_page,
)
from kraken_history.kraken.client import KRAKEN_URL, KrakenRest
from kraken_history.kraken.limiter import LocalRateLimiter
from kraken_history.records import unix_ns, utc_from_unix_ns
from kraken_history.runtime import telemetry
from kraken_history.runtime.tasks import end
from kraken_history.storing.aggregates import refresh_if_free
from kraken_history.storing.candle_building import build_candles_from_trades
from kraken_history.storing.pages import Alongside, Part
from kraken_history.storing.store import Store, Stored
from kraken_history.symbols import Pair, PairMap

__all__ = [
    "BackfillRunner",
    "backfill_symbol",
    "build_candles_from_trades",
    "fetch_all_trades",
    "fetch_trades_page",
    "find_pair",
    "get_resume_point",
]

MOST_FAILURES = 5
"""So many answers in a row that are no page end a backfill."""

_RENEWALS = 3  # a lease

_log = telemetry.get_logger("backfill")


async def find_pair(rest: KrakenRest, name: str) -> Pair:
    """The pair of any of its names: one of the default five at once, any other after asking Kraken.

    Raises:
        UnknownSymbol: Kraken does not list it.
        KrakenBusy, ServiceUnavailable: Kraken cannot be asked just now.
    """
    pairs = PairMap()
    return pairs.find(name) if name in pairs else PairMap(await rest.fetch_asset_pairs()).find(name)


async def get_resume_point(pool: asyncpg.Pool, symbol: str) -> int:
    """Where fetching a symbol's trades would go on, in nanoseconds; 0 if nothing was fetched yet."""
    since: int | None = await pool.fetchval(
        "SELECT last_kraken_since FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'", symbol
    )
    return since or 0


class BackfillRunner:
    """Advances backfills, of any symbols side by side, for as long as it holds their leases.

    Args:
        lease_s: How long the others wait when nothing is heard of this process any more.
        run_s: After this long :meth:`run` returns, between two pages.
        second_look_s: After this long an answer that is in doubt is asked for again.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        store: Store,
        rest: KrakenRest,
        *,
        lease_s: float = 30.0,
        run_s: float = 20.0,
        second_look_s: float = SECOND_LOOK_S,
    ) -> None:
        self._second_look_s = second_look_s
        self._pool = pool
        self._store = store
        self._rest = rest
        self._lease_s = lease_s
        self._run_s = run_s

    async def run(self, pair: Pair) -> Backfill | None:
        """Fetch pages until the end, or for ``run_s``; return how far it came, None if there is nothing to take.

        Raises:
            KrakenBusy, ServiceUnavailable: Kraken does not answer; what was fetched is stored, try again later.
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver says.
        """
        backfill = await self._take(pair.symbol)
        if backfill is None:
            return None
        until = time.monotonic() + self._run_s
        before = backfill
        async with self._leased(backfill):
            try:
                while backfill.state == "running" and time.monotonic() < until:
                    advanced = await self._advance(pair, backfill)
                    if advanced is None:
                        break
                    backfill = advanced
            except (KrakenBusy, ServiceUnavailable) as error:
                await self._note_waiting(backfill, str(error))
                raise
            except IncompletePage as error:
                await self._note_failure(backfill, str(error))
            except KrakenError as error:
                _count_failure(pair.symbol, "failed")
                await fail_backfill(self._pool, pair.symbol, str(error), run=backfill.run)
            except MalformedMessage as error:
                shown = f": {error.payload[:200]!r}" if error.payload else ""
                await self._note_failure(backfill, error.reason + shown)
            except Exception as error:
                if is_transient(error):
                    await self._note_waiting(backfill, f"{type(error).__name__}: {error}")
                else:
                    await self._note_failure(backfill, f"{type(error).__name__}: {error}")
                raise
        (backfill,) = await list_backfills(self._pool, pair.symbol)
        _log.info(
            "backfilled",
            symbol=pair.symbol,
            state=backfill.state,
            pages=backfill.pages - before.pages,
            trades=backfill.trades - before.trades,
            reached=str(backfill.reached),
        )
        return backfill

    async def _take(self, symbol: str) -> Backfill | None:
        row = await self._pool.fetchrow(
            f"""
            UPDATE backfills SET run = run + 1, lease_until = now() + make_interval(secs => $2), updated_at = now()
            WHERE symbol = $1 AND state = 'running' AND (lease_until IS NULL OR lease_until < now())
            RETURNING {COLUMNS}
            """,  # noqa: S608 — only constants of this module are put in
            symbol,
            self._lease_s,
        )
        return None if row is None else backfill_of(row)

    @asynccontextmanager
    async def _leased(self, backfill: Backfill) -> AsyncIterator[None]:
        """Renew the lease, whatever the pages take, and give it back."""
        keeper = asyncio.create_task(self._keep_lease(backfill))
        try:
            yield
        finally:
            await end(keeper)
            with suppress(*UNAVAILABLE, *TRY_AGAIN):  # then it runs out
                await self._pool.execute(
                    "UPDATE backfills SET lease_until = NULL, updated_at = now() WHERE symbol = $1 AND run = $2",
                    backfill.symbol,
                    backfill.run,
                )

    async def _keep_lease(self, backfill: Backfill) -> None:
        while True:
            await asyncio.sleep(self._lease_s / _RENEWALS)
            with suppress(*UNAVAILABLE, *TRY_AGAIN):
                await self._pool.execute(
                    """
                    UPDATE backfills SET lease_until = now() + make_interval(secs => $3)
                    WHERE symbol = $1 AND run = $2 AND state = 'running'
                    """,
                    backfill.symbol,
                    backfill.run,
                    self._lease_s,
                )

    async def _advance(self, pair: Pair, backfill: Backfill) -> Backfill | None:
        """One page further; None if the backfill is not ours any more, or not to be run."""
        reader = TapeReader(
            self._pool, self._store, self._rest, pair, work="backfill", second_look_s=self._second_look_s
        )
        page = await reader.read(
            backfill.next_since, until=backfill.target_end, begins_with_a_trade=backfill.has_advanced
        )
        cursor = _Cursor(backfill, page, self._lease_s)
        await reader.store(cursor.page, also=cursor)
        page.check()
        advanced = cursor.moved
        if advanced is None or advanced.state != "running":
            return advanced
        newest_id = max((trade.id for trade in page.trades), default=None)
        leapt = advanced if newest_id is None else await self._leap(advanced, newest_id)
        if leapt is not None and leapt.next_since == backfill.next_since:
            page.check_advance()
        return leapt

    async def _leap(self, backfill: Backfill, newest_id: int) -> Backfill | None:
        """Move the cursor past the trades that follow and are held; None as :meth:`_advance`."""
        held_to: int | None = await self._pool.fetchval(_HELD_TO, backfill.symbol, newest_id)
        if held_to is None or held_to <= newest_id + 1:
            return backfill
        since = await since_before(self._pool, backfill.symbol, held_to)
        if since <= backfill.next_since:
            return backfill
        row = await self._pool.fetchrow(_LEAP, backfill.symbol, since, backfill.run)
        return None if row is None else backfill_of(row)

    async def _note_waiting(self, backfill: Backfill, reason: str) -> None:
        """Say in ``--status`` why it does not advance, if the database can still be told."""
        _count_failure(backfill.symbol, "later")
        with suppress(*UNAVAILABLE, *TRY_AGAIN):
            await self._pool.execute(_NOTE_WAITING, backfill.symbol, backfill.run, reason)

    async def _note_failure(self, backfill: Backfill, reason: str) -> None:
        """Count what may pass when it is tried again; too often in a row, it will not."""
        failures: int | None = await self._pool.fetchval(_NOTE_FAILURE, backfill.symbol, backfill.run, reason)
        _log.warning("backfill_stumbled", symbol=backfill.symbol, since=backfill.next_since, reason=reason)
        is_over = failures is not None and failures >= MOST_FAILURES
        _count_failure(backfill.symbol, "failed" if is_over else "later")
        if is_over:
            await fail_backfill(self._pool, backfill.symbol, reason, run=backfill.run)


class _Cursor(Alongside):
    """Moves a backfill past a page, or past a part of one, in the transaction that stores it.

    A part that passes the target's end is the last one; the rest of the page was not asked for. If all trades of a
    page come after the end, none of them is stored.

    Attributes:
        page: The page as it is to be stored.
        moved: The backfill after the last part that was committed; None if it was not ours to move.
    """

    def __init__(self, backfill: Backfill, page: TapePage, lease_s: float) -> None:
        self._backfill = backfill
        self._lease_s = lease_s
        self._reason = ""
        self.page = page
        self.moved: Backfill | None = None
        if page.begins_after(backfill.target_end):
            self.page = page.before_its_trades()
            self._reason = _nothing_traded(backfill.target_end, page.trades[0].timestamp)

    async def before(self, connection: Connection) -> bool:
        """Lock the backfill, if it is still ours."""
        self.moved = None
        return bool(await connection.fetchval(_IS_OURS, self._backfill.symbol, self._backfill.run))

    async def after(self, connection: Connection, part: Part, stored: Stored) -> bool:
        """Move the cursor; False if that ends the backfill."""
        last = self.page.last if part.is_last else unix_ns(part.trades[-1].timestamp)
        self.moved = backfill_of(
            await connection.fetchrow(
                _ADVANCE,
                self._backfill.symbol,
                max(last, self._backfill.next_since),
                stored.new_trades,
                self.page.unidentified,
                part.is_last and not self.page.is_full,
                self._lease_s,
                part.is_last,
                self._reason,
            )
        )
        return self.moved.state == "running"


def _nothing_traded(end: datetime, next_trade: datetime) -> str:
    return f"no trade before {end:%Y-%m-%d %H:%M:%S}Z, the next is of {next_trade:%Y-%m-%d %H:%M:%S}Z"


_IS_OURS = "SELECT true FROM backfills WHERE symbol = $1 AND run = $2 AND state = 'running' FOR UPDATE"

# The target as it is now: somebody may have asked for a later end while the page was under way.
_PAST_END = "$2::bigint >= extract(epoch FROM target_end) * 1000000000"

_PAGE_IS_DONE = f"($7 OR {_PAST_END})"

_ADVANCE = f"""
    WITH resumed AS (
        INSERT INTO data_sync_status (symbol, data_type, last_kraken_since) VALUES ($1, 'trades', $2)
        ON CONFLICT (symbol, data_type) DO UPDATE SET last_kraken_since = excluded.last_kraken_since
    )
    UPDATE backfills SET
        next_since = $2, trades = trades + $3,
        pages = pages + CASE WHEN {_PAGE_IS_DONE} THEN 1 ELSE 0 END,
        unidentified = unidentified + CASE WHEN {_PAGE_IS_DONE} THEN $4 ELSE 0 END,
        state = CASE WHEN $5 OR {_PAST_END} THEN 'done' ELSE state END,
        reason = CASE WHEN $5 OR {_PAST_END} THEN $8 ELSE '' END,
        failures = 0, lease_until = now() + make_interval(secs => $6), updated_at = now()
    WHERE symbol = $1
    RETURNING {COLUMNS}
"""  # noqa: S608 — only constants of this module are put in

_HELD_TO = """
    SELECT upper(held) FROM data_sync_status, unnest(id_ranges + absent_id_ranges) AS held
    WHERE symbol = $1 AND data_type = 'trades' AND held @> $2::bigint
"""

_LEAP = f"""
    WITH leapt AS (
        UPDATE backfills SET
            next_since = $2, state = CASE WHEN {_PAST_END} THEN 'done' ELSE state END, updated_at = now()
        WHERE symbol = $1 AND run = $3 AND state = 'running'
        RETURNING *
    ), resumed AS (
        UPDATE data_sync_status s SET last_kraken_since = $2 FROM leapt
        WHERE s.symbol = leapt.symbol AND s.data_type = 'trades'
    )
    SELECT {COLUMNS} FROM leapt
"""  # noqa: S608 — only constants of this module are put in

_NOTE_WAITING = "UPDATE backfills SET reason = $3 WHERE symbol = $1 AND run = $2 AND state = 'running'"

_NOTE_FAILURE = """
    UPDATE backfills SET failures = failures + 1, reason = $3, updated_at = now()
    WHERE symbol = $1 AND run = $2 AND state = 'running' RETURNING failures
"""


def _count_failure(symbol: str, outcome: str) -> None:
    telemetry.FETCH_FAILURES.labels(symbol=symbol, work="backfill", outcome=outcome).inc()


async def backfill_symbol(
    pool: asyncpg.Pool, symbol: str, since: int = 0, *, end: datetime | None = None, rest: KrakenRest | None = None
) -> int:
    """Fetch a symbol's trades from ``since`` (nanoseconds) on, in this process; return how many were new.

    Needs neither Redis nor a worker. Where a worker is at the same backfill, this waits for it.

    Args:
        end: By default now.
        rest: An open client; by default one of Kraken's, with a rate limit of this process alone.

    Raises:
        UnknownSymbol: Kraken does not list the symbol.
        KrakenBusy, ServiceUnavailable: Kraken does not answer. What was fetched is stored; call again to go on.
        KrakenError: The backfill has failed, was paused or cancelled; with the reason.
    """
    async with AsyncExitStack() as stack:
        if rest is None:
            rest = await stack.enter_async_context(KrakenRest(KRAKEN_URL, LocalRateLimiter()))
        pair = await find_pair(rest, symbol)
        runner = BackfillRunner(pool, Store(pool), rest)
        start = utc_from_unix_ns(since) if since else None
        before = backfill = await request_backfill(pool, pair.symbol, start=start, end=end)
        while backfill.state == "running":
            advanced = await runner.run(pair)
            if advanced is None:
                await asyncio.sleep(1.0)
            (backfill,) = await list_backfills(pool, pair.symbol)
    await refresh_if_free(pool)
    if backfill.state != "done":
        raise BackfillStopped(pair.symbol, backfill.state, backfill.reason)
    return backfill.trades - before.trades
