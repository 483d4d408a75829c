"""Backfills as rows of the database: asking for one, pausing, resuming, cancelling, finding those that stand still."""

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
    """One symbol's backfill, as it stands in the database.

    Attributes:
        target_start: None for the beginning of the pair.
        next_since: Cursor, in nanoseconds.
        reason: Why it failed, or what went wrong last.
        trades: Those that were new to the database.
        unidentified: Rows without a trade id, which cannot be stored once and only once and were passed over.
        failures: Answers in a row that were no page.
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
        """The time up to which the target is fetched; None before the first page."""
        return min(utc_from_unix_ns(self.next_since), self.target_end) if self.next_since else self.target_start

    @property
    def has_advanced(self) -> bool:
        """True if a trade stands at the cursor, which is where an earlier page or part of one ended."""
        return self.next_since > (unix_ns(self.target_start) if self.target_start else 0)


COLUMNS = ", ".join("state::text" if name == "state" else name for name in Backfill.__struct_fields__)


async def request_backfill(
    pool: asyncpg.Pool, symbol: str, *, start: datetime | None = None, end: datetime | None = None
) -> Backfill:
    """Write a target into the database, for whoever takes the lease.

    One that is unfinished and has the same start goes on from its cursor, under its worker if it has one. Any
    other begins anew, which costs little where trades are held already.

    Args:
        start: By default the beginning of the pair.
        end: By default now, and never later: what is still to be traded comes by the live feed.

    Raises:
        UsageError: The start is not before the end, or lies in the future.
    """
    now = datetime.now(UTC)
    end = min(end or now, now)
    if start is not None and start >= now:
        raise UsageError(f"a backfill cannot begin in the future, at {_plainly(start)}: choose an earlier time")
    if start is not None and start >= end:
        raise UsageError(
            f"a backfill must begin before it ends, and {_plainly(start)} is not before {_plainly(end)}:"
            " correct one of the two"
        )
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
    """Pause the running ones, or that of one symbol; return those that were. The page under way is not stored."""
    return await _change(pool, symbol, ("running",), "state = 'paused', lease_until = NULL")


async def resume_backfills(pool: asyncpg.Pool, symbol: str | None = None) -> list[Backfill]:
    """Let paused and failed ones go on from their cursors; return them, to be enqueued."""
    start = "state = 'running', reason = '', failures = 0, run = run + 1, lease_until = NULL"
    return await _change(pool, symbol, ("paused", "failed"), start)


async def cancel_backfills(pool: asyncpg.Pool, symbol: str | None = None) -> list[Backfill]:
    """Give up those that are not finished; return them. What is stored stays."""
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
    """A job for this backfill waits for its turn: it has not stalled."""
    await pool.execute("UPDATE backfills SET updated_at = now() WHERE symbol = $1 AND state = 'running'", symbol)


async def take_stalled(pool: asyncpg.Pool, *, lease_s: float) -> list[Backfill]:
    """The running ones that nobody works on, to be enqueued anew. For another ``lease_s`` they are not again.

    A new number makes for a new job id: that of a worker that was killed stays taken for minutes.
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
    """End a running backfill with the reason; it can be resumed.

    Args:
        run: The lease of whoever says so. Overtaken, it has no say: False.
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
    assert row is not None  # for the type checker: only where a row is certain
    return Backfill(*row)


async def is_of_a_backfill(pool: asyncpg.Pool, symbol: str, since: int) -> bool:
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
