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
from datetime import UTC, datetime
from functools import partial

import asyncpg
import msgspec

from kraken_history.completeness.hole_times import since_before
from kraken_history.database.connections import TRY_AGAIN, UNAVAILABLE, is_transient, write_again
from kraken_history.database.stored_symbols import fetch_stored_symbols
from kraken_history.errors import KrakenBusy, KrakenError, MalformedMessage, ServiceUnavailable
from kraken_history.fetching.backfill_targets import (
    COLUMNS,
    Backfill,
    backfill_of,
    fail_backfill,
    list_backfills,
    request_backfill,
)
from kraken_history.fetching.pages import (
    REST_LAG,
    SECOND_LOOK_S,
    check_page,
    expect,
    fetch_all_trades,
    fetch_trades_page,
    note_absence,
)
from kraken_history.kraken.client import KRAKEN_URL, KrakenRest
from kraken_history.kraken.limiter import LocalRateLimiter
from kraken_history.kraken.pairs import find_symbol
from kraken_history.kraken.resolver import Resolver
from kraken_history.kraken.rest import TRADES_PAGE, TradesPage
from kraken_history.records import unix_ns, utc_from_unix_ns
from kraken_history.runtime import telemetry
from kraken_history.runtime.tasks import end
from kraken_history.storing import candle_building
from kraken_history.storing.aggregates import refresh_if_free
from kraken_history.storing.pages import parts_of
from kraken_history.storing.store import Store, write_within
from kraken_history.symbols import Pair

__all__ = [
    "BackfillRunner",
    "backfill_symbol",
    "build_candles_from_trades",
    "check_page",
    "fetch_all_trades",
    "fetch_trades_page",
    "get_resume_point",
]

MOST_FAILURES = 5
"""So many answers in a row that are no page end a backfill."""

_RENEWALS = 3  # a lease

_log = telemetry.get_logger("backfill")


async def get_resume_point(pool: asyncpg.Pool, symbol: str) -> int:
    """Where fetching a symbol's trades would go on, in nanoseconds; 0 if nothing was fetched yet."""
    since: int | None = await pool.fetchval(
        "SELECT last_kraken_since FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'",
        await _stored_symbol(pool, symbol),
    )
    return since or 0


async def build_candles_from_trades(pool: asyncpg.Pool, symbol: str, start: datetime, end: datetime) -> int:
    """:func:`kraken_history.storing.candle_building.build_candles_from_trades` of a symbol under any of its names."""
    return await candle_building.build_candles_from_trades(pool, await _stored_symbol(pool, symbol), start, end)


async def _stored_symbol(pool: asyncpg.Pool, name: str) -> str:
    return find_symbol(name, await fetch_stored_symbols(pool)) or name


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
        asked_at = datetime.now(UTC)
        page = await self._fetch(pair, backfill)
        if _begins_after(page, backfill.target_end):
            return await self._end_without_trades(backfill, page)
        try:
            advanced = await self._commit(backfill, page)
        except asyncpg.CheckViolationError:
            self._store.forget_partitions()
            advanced = await self._commit(backfill, page)
        if advanced is None:
            return None
        telemetry.FETCHED_PAGES.labels(symbol=pair.symbol, work="backfill").inc()
        telemetry.FETCHED_TRADES.labels(symbol=pair.symbol, work="backfill").inc(advanced.trades - backfill.trades)
        await note_absence(self._pool, pair.symbol, page, asked_at=asked_at)
        if advanced.state != "running" or not page.trades:
            return advanced
        return await self._leap(advanced, max(trade.id for trade in page.trades))

    async def _fetch(self, pair: Pair, backfill: Backfill) -> TradesPage:
        """The next page; one that seems to be the last, far from the target, is asked for again.

        Raises:
            MalformedMessage: The second answer lacks a trade that is known.
        """
        since = backfill.next_since
        expected = await expect(
            self._pool,
            pair.symbol,
            since,
            until=backfill.target_end,
            shows=min(backfill.target_end, datetime.now(UTC) - REST_LAG),
            begins_with_a_trade=backfill.has_advanced,
        )
        page = await fetch_trades_page(self._rest, pair, since)
        if expected.wants_second_look(page):
            await asyncio.sleep(self._second_look_s)
            first, page = page, await fetch_trades_page(self._rest, pair, since)
            expected.check_second(page, first)
        return page

    async def _commit(self, backfill: Backfill, page: TradesPage) -> Backfill | None:
        """Store a page, and move the cursor past it; a page that spans months in several steps.

        A step that passes the target's end is the last, and whatever of the page lies after it is left out.
        """
        *earlier, rest = parts_of(page.trades) or [()]
        for trades in earlier:
            part = msgspec.structs.replace(page, trades=trades, last=unix_ns(trades[-1].timestamp))
            advanced = await write_again(partial(self._commit_part, backfill, part, is_last=False))
            if advanced is None or advanced.state != "running":
                return advanced
        is_tip = page.rows < TRADES_PAGE
        page = msgspec.structs.replace(page, trades=rest)
        return await write_again(partial(self._commit_part, backfill, page, is_last=True, is_tip=is_tip))

    async def _commit_part(
        self, backfill: Backfill, page: TradesPage, *, is_last: bool, is_tip: bool = False
    ) -> Backfill | None:
        """Trades, candles, ledger and cursor in one transaction."""
        async with self._pool.acquire() as connection:
            await self._store.ensure_partitions(connection, page.trades, ())
            async with connection.transaction():
                if not await connection.fetchval(_IS_OURS, backfill.symbol, backfill.run):
                    return None
                stored = await write_within(connection, page.trades, (), candle_source="ohlc")
                row = await connection.fetchrow(
                    _ADVANCE,
                    backfill.symbol,
                    max(page.last, backfill.next_since),
                    stored.new_trades,
                    page.unidentified - page.unidentified_again,
                    is_tip,
                    self._lease_s,
                    is_last,
                )
        return backfill_of(row)

    async def _end_without_trades(self, backfill: Backfill, page: TradesPage) -> Backfill | None:
        """Nothing was traded in the target; what the page has lies after it, and was not asked for."""
        first = page.trades[0].timestamp
        reason = f"no trade before {backfill.target_end:%Y-%m-%d %H:%M:%S}Z, the next is of {first:%Y-%m-%d %H:%M:%S}Z"
        since = unix_ns(backfill.target_end)
        row = await self._pool.fetchrow(_END, backfill.symbol, since, backfill.run, backfill.target_end, reason)
        return None if row is None else backfill_of(row)

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
        state = CASE WHEN $5 OR {_PAST_END} THEN 'done' ELSE state END, reason = '', failures = 0,
        lease_until = now() + make_interval(secs => $6), updated_at = now()
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

_END = f"""
    UPDATE backfills SET
        state = 'done', next_since = greatest($2, next_since), pages = pages + 1, reason = $5, failures = 0,
        updated_at = now()
    WHERE symbol = $1 AND run = $3 AND state = 'running' AND target_end = $4
    RETURNING {COLUMNS}
"""  # noqa: S608 — only constants of this module are put in

_NOTE_WAITING = "UPDATE backfills SET reason = $3 WHERE symbol = $1 AND run = $2 AND state = 'running'"

_NOTE_FAILURE = """
    UPDATE backfills SET failures = failures + 1, reason = $3, updated_at = now()
    WHERE symbol = $1 AND run = $2 AND state = 'running' RETURNING failures
"""


def _count_failure(symbol: str, outcome: str) -> None:
    telemetry.FETCH_FAILURES.labels(symbol=symbol, work="backfill", outcome=outcome).inc()


def _begins_after(page: TradesPage, end: datetime) -> bool:
    return bool(page.trades) and not page.unidentified and page.trades[0].timestamp >= end


async def backfill_symbol(
    pool: asyncpg.Pool, symbol: str, since: int = 0, *, end: datetime | None = None, rest: KrakenRest | None = None
) -> int:
    """Fetch a symbol's trades from ``since`` (nanoseconds) on, in this process; return how many were new.

    Needs neither Redis nor a worker. Where a worker is at the same backfill, this waits for it.

    Args:
        symbol: Under any of its names.
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
        pair = await Resolver(rest.fetch_asset_pairs).find(symbol)
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
        raise KrakenError([f"the backfill of {pair.symbol} is {backfill.state} {backfill.reason}".rstrip()])
    return backfill.trades - before.trades
