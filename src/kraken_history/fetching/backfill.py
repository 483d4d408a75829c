"""Fetches history from REST Trades, page by page, from a cursor that is kept in the database.

A backfill is a row of ``backfills``: its target, its cursor, its state. The worker that holds the row's lease fetches a
page and commits trades, candles, ledger, coverage and cursor in one transaction. It may die at any moment: the next
holder continues after the last stored page. A lease is numbered (``run``). If another worker has taken over, the number
of a slow worker is outdated, and it writes nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime

import asyncpg

from kraken_history.completeness.resume_point import read_resume_point
from kraken_history.database.failures import TRY_AGAIN, UNAVAILABLE, is_transient
from kraken_history.database.stored_symbols import fetch_stored_symbols
from kraken_history.errors import (
    BackfillStopped,
    IncompletePage,
    KrakenBusy,
    KrakenError,
    MalformedMessage,
    ServiceUnavailable,
)
from kraken_history.fetching.backfill_cursor import Cursor, leap
from kraken_history.fetching.backfill_targets import (
    COLUMNS,
    Backfill,
    backfill_of,
    fail_backfill,
    list_backfills,
    request_backfill,
)
from kraken_history.fetching.tape import SECOND_LOOK_S, TapeReader, fetch_all_trades, fetch_trades_page
from kraken_history.kraken.client import KRAKEN_URL, KrakenRest
from kraken_history.kraken.limiter import LocalRateLimiter
from kraken_history.kraken.pairs import find_symbol
from kraken_history.kraken.resolver import Resolver
from kraken_history.records import utc_from_unix_ns
from kraken_history.runtime import telemetry
from kraken_history.runtime.tasks import end
from kraken_history.storing import candle_building
from kraken_history.storing.aggregates import refresh_if_free
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair

__all__ = [
    "BackfillRunner",
    "backfill_symbol",
    "build_candles_from_trades",
    "fetch_all_trades",
    "fetch_trades_page",
    "get_resume_point",
]

MOST_FAILURES = 5
"""Number of failures in a row after which a backfill ends as failed."""

_RENEWALS = 3  # per length of a lease

_log = telemetry.get_logger("backfill")


async def get_resume_point(pool: asyncpg.Pool, symbol: str) -> int:
    """The cursor from which fetching a symbol's trades continues, in nanoseconds; 0 if nothing was fetched yet."""
    return await read_resume_point(pool, await _stored_symbol(pool, symbol))


async def build_candles_from_trades(pool: asyncpg.Pool, symbol: str, start: datetime, end: datetime) -> int:
    """Rebuild one-minute candles from stored trades, for a symbol under any of its names.

    See :func:`kraken_history.storing.candle_building.build_candles_from_trades`.
    """
    return await candle_building.build_candles_from_trades(pool, await _stored_symbol(pool, symbol), start, end)


async def _stored_symbol(pool: asyncpg.Pool, name: str) -> str:
    return find_symbol(name, await fetch_stored_symbols(pool)) or name


class BackfillRunner:
    """Advances backfills, of any symbols side by side, for as long as it holds their leases.

    Args:
        lease_s: Seconds after which other workers take over if this process stops renewing its lease.
        run_s: Seconds after which :meth:`run` returns, between two pages.
        second_look_s: Seconds before a page in doubt is requested again.
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
        """Fetch pages until the end, or for ``run_s``; return the backfill, or None if none is free to be taken.

        Raises:
            KrakenBusy, ServiceUnavailable: Kraken does not answer. Fetched pages are stored; try again later.
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver raises them.
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
        """Renew the lease in the background, however long a page takes, and release it at the end."""
        keeper = asyncio.create_task(self._keep_lease(backfill))
        try:
            yield
        finally:
            await end(keeper)
            with suppress(*UNAVAILABLE, *TRY_AGAIN):  # if the release fails, the lease runs out
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
        """Fetch one page; return None if another worker has the backfill, or it is not running any more."""
        reader = TapeReader(
            self._pool, self._store, self._rest, pair, work="backfill", second_look_s=self._second_look_s
        )
        page = await reader.read(
            backfill.next_since,
            until=backfill.target_end,
            begins_with_a_trade=backfill.has_advanced,
            continues=backfill.has_advanced,
        )
        cursor = Cursor(backfill, page, self._lease_s)
        await reader.store(cursor.page, also=cursor)
        page.check()
        advanced = cursor.moved
        if advanced is None or advanced.state != "running" or cursor.is_outdated:
            return advanced
        newest_id = max((trade.id for trade in cursor.page.trades), default=None)
        leapt = advanced if newest_id is None else await leap(self._pool, advanced, newest_id)
        if leapt is not None and leapt.next_since == backfill.next_since:
            cursor.page.check_advance()
        return leapt

    async def _note_waiting(self, backfill: Backfill, reason: str) -> None:
        """Record the reason for the wait, which ``--status`` shows, if the database can be reached."""
        _count_failure(backfill.symbol, "later")
        with suppress(*UNAVAILABLE, *TRY_AGAIN):
            await self._pool.execute(_NOTE_WAITING, backfill.symbol, backfill.run, reason)

    async def _note_failure(self, backfill: Backfill, reason: str) -> None:
        """Count a failure that a later attempt may avoid; after too many in a row, the backfill fails."""
        failures: int | None = await self._pool.fetchval(_NOTE_FAILURE, backfill.symbol, backfill.run, reason)
        _log.warning("backfill_stumbled", symbol=backfill.symbol, since=backfill.next_since, reason=reason)
        is_over = failures is not None and failures >= MOST_FAILURES
        _count_failure(backfill.symbol, "failed" if is_over else "later")
        if is_over:
            await fail_backfill(self._pool, backfill.symbol, reason, run=backfill.run)


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

    Needs neither Redis nor a worker. If a worker runs the same backfill, this waits for it.

    Args:
        symbol: Under any of its names.
        end: By default now.
        rest: An open client; by default a client of Kraken, whose rate limit covers only this process.

    Raises:
        UnknownSymbol: Kraken does not list the symbol.
        KrakenBusy, ServiceUnavailable: Kraken does not answer. Fetched pages are stored; call again to continue.
        BackfillStopped: The backfill failed, or was paused or cancelled; the error has the reason.
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
        raise BackfillStopped(pair.symbol, backfill.state, backfill.reason)
    return backfill.trades - before.trades
