"""Backfills as rows of the database: request, pause, resume and cancel them, and find those that have stalled."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import asyncpg
from msgspec import Struct

from kraken_history.errors import UsageError
from kraken_history.records import unix_ns, utc_from_unix_ns
from kraken_history.runtime import telemetry

BackfillState = Literal["running", "paused", "done", "cancelled", "failed"]

_log = telemetry.get_logger("backfill")


class Backfill(Struct, frozen=True):
    """One symbol's backfill, as stored in the database.

    Attributes:
        target_start: None for the beginning of the pair.
        next_since: Cursor, in nanoseconds.
        reason: Why it failed, or the last problem.
        trades: Number of fetched trades that were new to the database.
        unidentified: Number of skipped rows without a trade id, which cannot be stored exactly once.
        failures: Failures in a row.
        run: Number of the lease.
    """

    symbol: str
    target_start: datetime | None
    target_end: datetime
    next_since: int
    state: BackfillState
    reason: str
    pages: int
    trades: int
    unidentified: int
    failures: int
    run: int
    lease_until: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def reached(self) -> datetime | None:
        """The time up to which the target is fetched; None if it has no start and no page was fetched."""
        return min(utc_from_unix_ns(self.next_since), self.target_end) if self.next_since else self.target_start

    @property
    def has_advanced(self) -> bool:
        """True if an earlier page, or a part of one, ended with a trade at the cursor."""
        return self.next_since > (max(unix_ns(self.target_start), 0) if self.target_start else 0)


COLUMNS = ", ".join("state::text" if name == "state" else name for name in Backfill.__struct_fields__)


async def request_backfill(
    pool: asyncpg.Pool, symbol: str, *, start: datetime | None = None, end: datetime | None = None
) -> Backfill:
    """Write a target into the database; a worker takes its lease.

    If the symbol has an unfinished backfill with the same start, it continues from its cursor, under its worker if it
    has one. Otherwise a new one begins, which costs little where trades are held already.

    Args:
        start: By default the beginning of the pair.
        end: By default now, and never later: future trades arrive over the live feed.

    Raises:
        UsageError: The start is not before the end, or lies in the future.
    """
    now: datetime = await pool.fetchval("SELECT now()")  # the clock that the workers share, not that of a terminal
    end = min(end or now, now)
    if start is not None and start >= now:
        raise UsageError(f"start ({_plainly(start)}) must not be in the future: choose an earlier time")
    if start is not None and start >= end:
        raise UsageError(f"start ({_plainly(start)}) must be before end ({_plainly(end)}): correct one of them")
    since = 0 if start is None else max(unix_ns(start), 0)
    return backfill_of(await pool.fetchrow(_REQUEST, symbol, start, end, since))


_REQUEST = f"""
    INSERT INTO backfills AS b (symbol, target_start, target_end, next_since) VALUES ($1, $2, $3, $4)
    ON CONFLICT (symbol) DO UPDATE SET
        (next_since, pages, trades, unidentified, created_at, run, lease_until) = (
            SELECT CASE WHEN goes_on THEN b.next_since ELSE excluded.next_since END,
                   CASE WHEN goes_on THEN b.pages ELSE 0 END,
                   CASE WHEN goes_on THEN b.trades ELSE 0 END,
                   CASE WHEN goes_on THEN b.unidentified ELSE 0 END,
                   CASE WHEN goes_on THEN b.created_at ELSE now() END,
                   CASE WHEN goes_on AND is_led THEN b.run ELSE b.run + 1 END,
                   CASE WHEN goes_on AND is_led THEN b.lease_until END
            FROM (SELECT b.state NOT IN ('done', 'cancelled')
                         AND b.target_start IS NOT DISTINCT FROM excluded.target_start AS goes_on,
                         b.state = 'running' AND coalesce(b.lease_until > now(), false) AS is_led) AS kept),
        target_start = excluded.target_start, target_end = excluded.target_end,
        state = 'running', reason = '', failures = 0, updated_at = now()
    RETURNING {COLUMNS}
"""  # noqa: S608 — only constants of this module are put in


async def list_backfills(pool: asyncpg.Pool, symbol: str | None = None) -> list[Backfill]:
    """All backfills, or that of one symbol."""
    query = f"SELECT {COLUMNS} FROM backfills WHERE $1::text IS NULL OR symbol = $1 ORDER BY symbol"  # noqa: S608 — constants
    return [backfill_of(row) for row in await pool.fetch(query, symbol)]


async def pause_backfills(pool: asyncpg.Pool, symbol: str | None = None) -> list[Backfill]:
    """Pause all running backfills, or that of one symbol; return them. A page in progress is not stored."""
    return await _change(pool, symbol, ("running",), "state = 'paused', lease_until = NULL")


async def resume_backfills(pool: asyncpg.Pool, symbol: str | None = None) -> list[Backfill]:
    """Resume paused and failed backfills from their cursors; return them, so that the caller can enqueue them."""
    start = "state = 'running', reason = '', failures = 0, run = run + 1, lease_until = NULL"
    return await _change(pool, symbol, ("paused", "failed"), start)


async def cancel_backfills(pool: asyncpg.Pool, symbol: str | None = None) -> list[Backfill]:
    """Cancel unfinished backfills; return them. Stored trades are kept."""
    return await _change(
        pool, symbol, ("running", "paused", "failed"), "state = 'cancelled', reason = '', lease_until = NULL"
    )


async def _change(
    pool: asyncpg.Pool, symbol: str | None, states: Sequence[BackfillState], assignments: str
) -> list[Backfill]:
    query = f"""
        UPDATE backfills SET {assignments}, updated_at = now()
        WHERE ($1::text IS NULL OR symbol = $1) AND state::text = ANY ($2) RETURNING {COLUMNS}
    """  # noqa: S608 — only constants of this module are put in
    return [backfill_of(row) for row in await pool.fetch(query, symbol, list(states))]


async def note_waiting(pool: asyncpg.Pool, symbol: str) -> None:
    """Record that a job for this backfill waits for its turn, so that it does not count as stalled."""
    await pool.execute("UPDATE backfills SET updated_at = now() WHERE symbol = $1 AND state = 'running'", symbol)


async def take_stalled(pool: asyncpg.Pool, *, lease_s: float) -> list[Backfill]:
    """The running backfills without a worker, to be enqueued again. They are not returned again within ``lease_s``.

    They get a new number, and thereby a new job id: the job id of a killed worker stays taken for minutes.
    """
    rows = await pool.fetch(
        f"""
        UPDATE backfills SET run = run + 1, lease_until = NULL, updated_at = now()
        WHERE state = 'running'
          AND (lease_until < now() OR lease_until IS NULL AND updated_at < now() - make_interval(secs => $1))
        RETURNING {COLUMNS}
        """,  # noqa: S608 — only constants of this module are put in
        lease_s,
    )
    return [backfill_of(row) for row in rows]


async def fail_backfill(pool: asyncpg.Pool, symbol: str, reason: str, *, run: int | None = None) -> bool:
    """End a running backfill as failed, with the reason; it can be resumed.

    Args:
        run: The caller's lease. If another lease has replaced it, nothing changes and False is returned.
    """
    failed = await pool.fetchval(
        """
        UPDATE backfills SET state = 'failed', reason = $2, lease_until = NULL, updated_at = now()
        WHERE symbol = $1 AND state = 'running' AND run = coalesce($3, run) RETURNING true
        """,
        symbol,
        reason,
        run,
    )
    if failed:
        _log.error("backfill_failed", symbol=symbol, reason=reason)
    return bool(failed)


def _plainly(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def backfill_of(row: asyncpg.Record | None) -> Backfill:
    assert row is not None  # for the type checker: callers are certain of a row
    return Backfill(*row)


async def is_of_a_backfill(pool: asyncpg.Pool, symbol: str, since: int) -> bool:
    """True if a backfill has yet to reach this time, or has ended at it."""
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
