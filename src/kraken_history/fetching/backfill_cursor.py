"""The cursor of a backfill: it moves past stored pages, and leaps over trades that are held already.

The cursor is a time, because Kraken's API takes a time. The ledger knows trades by id. After each page, the ledger is
searched for the end of the held ids that follow, and the cursor leaps to the time of the last of them.
"""

from datetime import datetime

import asyncpg

from kraken_history.completeness.hole_times import since_before
from kraken_history.completeness.holes import find_held_to
from kraken_history.completeness.resume_point import set_resume_point
from kraken_history.database.connections import Connection
from kraken_history.fetching.backfill_targets import COLUMNS, Backfill, backfill_of
from kraken_history.fetching.pages import TapePage
from kraken_history.records import unix_ns
from kraken_history.storing.pages import Alongside, Part
from kraken_history.storing.store import Stored


class Cursor(Alongside):
    """Moves a backfill past a page, or past a part of one, in the transaction that stores it.

    A part that passes the target's end is the last one; the rest of the page is not wanted. If all trades of a
    page come after the end, none of them is stored.

    Attributes:
        page: The page to store.
        moved: The backfill after the last committed part; None if another worker has the lease.
        is_outdated: True if another end was requested meanwhile, so that the page without its trades must not be used.
    """

    def __init__(self, backfill: Backfill, page: TapePage, lease_s: float) -> None:
        self._backfill = backfill
        self._lease_s = lease_s
        self._reason = ""
        self.page = page
        self.moved: Backfill | None = None
        self.is_outdated = False
        if page.begins_after(backfill.target_end):
            self.page = page.before_its_trades()
            self._reason = _nothing_traded(backfill.target_end, page.trades[0].timestamp)

    async def before(self, connection: Connection) -> bool:
        """Lock the backfill; return False if it is not running any more, or another worker has the lease."""
        self.moved = None
        row = await connection.fetchrow(_LOCK, self._backfill.symbol, self._backfill.run)
        if row is None:
            return False
        locked = backfill_of(row)
        self.is_outdated = bool(self._reason) and locked.target_end != self._backfill.target_end
        if self.is_outdated:
            self.moved = locked
        return not self.is_outdated

    async def after(self, connection: Connection, part: Part, stored: Stored) -> bool:
        """Move the cursor; return False if that ends the backfill. A page in doubt moves nothing: it only counts."""
        if self.page.is_in_doubt:
            await connection.execute(_COUNT, self._backfill.symbol, stored.new_trades)
            return True
        reached = 0 if part.newest is None else unix_ns(part.newest)
        since = max(self.page.last if part.is_last else reached, self._backfill.next_since)
        await set_resume_point(connection, self._backfill.symbol, since)
        self.moved = backfill_of(
            await connection.fetchrow(
                _ADVANCE,
                self._backfill.symbol,
                since,
                stored.new_trades,
                self.page.unidentified,
                part.is_last and not self.page.is_full,
                self._lease_s,
                part.is_last,
                self._reason,
                self._backfill.target_end,
            )
        )
        return self.moved.state == "running"


def _nothing_traded(end: datetime, next_trade: datetime) -> str:
    return f"no trade before {end:%Y-%m-%d %H:%M:%S}Z, the next one is at {next_trade:%Y-%m-%d %H:%M:%S}Z"


_LOCK = f"SELECT {COLUMNS} FROM backfills WHERE symbol = $1 AND run = $2 AND state = 'running' FOR UPDATE"  # noqa: S608 — constants

_COUNT = "UPDATE backfills SET trades = trades + $2 WHERE symbol = $1"


# The target as it is now: a later end may have been requested while the page was fetched.
_PAST_END = "$2::bigint >= extract(epoch FROM target_end) * 1000000000"


_PAGE_IS_DONE = f"($7 OR {_PAST_END})"

# The end of the tape was checked up to the end that was known when the page was requested.
_IS_DONE = f"($5 AND target_end <= $9 OR {_PAST_END})"


_ADVANCE = f"""
    UPDATE backfills SET
        next_since = $2, trades = trades + $3,
        pages = pages + CASE WHEN {_PAGE_IS_DONE} THEN 1 ELSE 0 END,
        unidentified = unidentified + CASE WHEN {_PAGE_IS_DONE} THEN $4 ELSE 0 END,
        state = CASE WHEN {_IS_DONE} THEN 'done' ELSE state END,
        reason = CASE WHEN {_IS_DONE} THEN $8 ELSE '' END,
        failures = 0, lease_until = now() + make_interval(secs => $6), updated_at = now()
    WHERE symbol = $1
    RETURNING {COLUMNS}
"""  # noqa: S608 — only constants of this module are put in


async def leap(pool: asyncpg.Pool, backfill: Backfill, newest_id: int) -> Backfill | None:
    """Move the cursor past the held trades that follow; return None if another worker has taken the lease."""
    held_to = await find_held_to(pool, backfill.symbol, newest_id)
    if held_to <= newest_id + 1:
        return backfill
    since = await since_before(pool, backfill.symbol, held_to)
    if since <= backfill.next_since:
        return backfill
    async with pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(_LEAP, backfill.symbol, since, backfill.run)
        if row is None:
            return None
        await set_resume_point(connection, backfill.symbol, since)
    return backfill_of(row)


_LEAP = f"""
    UPDATE backfills SET
        next_since = $2, state = CASE WHEN {_PAST_END} THEN 'done' ELSE state END, updated_at = now()
    WHERE symbol = $1 AND run = $3 AND state = 'running'
    RETURNING {COLUMNS}
"""  # noqa: S608 — only constants of this module are put in
