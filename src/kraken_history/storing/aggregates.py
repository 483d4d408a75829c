"""The refresh of the eight longer intervals.

:mod:`~kraken_history.storing.store` marks the hours whose one-minute candles changed. A refresh copies these marks to
each interval, and recomputes the marked buckets once they are closed. Buckets that are not refreshed yet stay marked in
the database. If a refresh dies at any point, the next one continues. For each interval this invariant holds:

    All time before its watermark is materialised or marked.

Readers compute time after the watermark from the source, so they are correct there without a refresh.
"""

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import asyncpg
from msgspec import Struct

from kraken_history.database.connections import Connection
from kraken_history.database.locks import holding
from kraken_history.errors import ServiceUnavailable
from kraken_history.intervals import bucket_end, bucket_start
from kraken_history.records import TimeRange
from kraken_history.storing.longer_intervals import AGGREGATES, Aggregate
from kraken_history.storing.materialized import Keeper, open_keeper

GRACE = timedelta(seconds=10)
"""Delay after its end until a bucket counts as closed: the last trades of its last minute arrive until then."""

_LOCK_KEY = 0x61676772656761  # an arbitrary constant; all versions must use the same
_LONGEST_WINDOW = timedelta(weeks=13)  # a longer range is refreshed in pieces
_BRIDGED_BUCKETS = 12  # nearer windows are merged: a statement costs more than a few buckets
_ROWS_PER_WINDOW = 200  # one-minute candles; reading so many costs less than a statement of their own
_KEPT_PER_WINDOW = 4  # materialised candles; each of them may have lost its rows, and then costs a statement
_LEAST_UNMARKED = 64  # windows per statement
_UNMARKED_SHARE = 8  # one statement removes the marks of this fraction of the windows


OnWindow = Callable[[Aggregate, int, int], object]
"""Called with an interval, and how many of its windows are done, and wanted."""


class Refreshed(Struct, frozen=True):
    """One window that was refreshed.

    Attributes:
        kept: Number of its buckets that lost base rows, and whose materialised candles were kept.
    """

    view: str
    window: TimeRange
    kept: int


class RefreshIsRunning(ServiceUnavailable):
    """Another process is refreshing. Only one may do so at a time."""


async def refresh(
    pool: asyncpg.Pool,
    *,
    within: TimeRange | None = None,
    now: datetime | None = None,
    wait_s: float = 0,
    told: OnWindow = lambda *_: None,
) -> list[Refreshed]:
    """Refresh every closed bucket that is marked; return the windows, in their order.

    If it is cancelled or fails, the remaining buckets stay marked.

    Args:
        within: Mark this range first, as far as it has one-minute candles.
        now: The time that decides which buckets are closed; by default, the present.
        wait_s: Seconds to wait for another refresh to end.
        told: Called before each window.

    Raises:
        RefreshIsRunning: The other refresh did not end in time.
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver raises them.
    """
    async with sole_refresher(pool, wait_s=wait_s) as connection:
        try:
            return await refresh_marked(connection, within=within, now=now, told=told)
        except asyncpg.LockNotAvailableError as error:  # TimescaleDB: a policy has locked the aggregate
            raise RefreshIsRunning("a candle aggregate is locked, perhaps by a refresh policy: try again") from error


async def refresh_if_free(
    pool: asyncpg.Pool, *, now: datetime | None = None, wait_s: float = 5.0, told: OnWindow = lambda *_: None
) -> None:
    """:func:`refresh` at the end of a job that ran without a worker.

    If another refresh is running, or this user does not own the aggregates, this does nothing: the other refresh, or
    the next one, refreshes the marked buckets.
    """
    with suppress(RefreshIsRunning, asyncpg.InsufficientPrivilegeError):
        await refresh(pool, now=now, wait_s=wait_s, told=told)


@asynccontextmanager
async def sole_refresher(pool: asyncpg.Pool, *, wait_s: float = 0) -> AsyncIterator[Connection]:
    """A connection with the lock of the only process that may change materialised candles.

    Raises:
        RefreshIsRunning: Another process has the lock, and did not release it within ``wait_s``.
    """
    async with pool.acquire() as connection, holding(connection, _LOCK_KEY, wait_s=wait_s) as is_held:
        if not is_held:
            raise RefreshIsRunning("another refresh is running: wait for it, or try again later")
        yield connection


async def refresh_marked(
    connection: Connection,
    *,
    within: TimeRange | None = None,
    now: datetime | None = None,
    told: OnWindow = lambda *_: None,
) -> list[Refreshed]:
    """As :func:`refresh`, for a caller that holds the lock of :func:`sole_refresher`."""
    closed_until = (datetime.now(UTC) if now is None else now) - GRACE
    keeper = await open_keeper(connection)
    await _take_up_marks(connection)
    if within is not None:
        await _mark(connection, within)
    done: list[Refreshed] = []
    for aggregate in AGGREGATES:
        wanted = windows(await _marked(connection, aggregate), aggregate.width, closed_until)
        done += await _refresh_windows(keeper, aggregate, await _joined(keeper, aggregate, wanted), told)
    refreshed = {each.view for each in done}
    await keeper.note_refreshed([aggregate.view for aggregate in AGGREGATES if aggregate.view in refreshed])
    return done


async def _refresh_windows(
    keeper: Keeper, aggregate: Aggregate, wanted: Sequence[TimeRange], told: OnWindow
) -> list[Refreshed]:
    """Refresh windows, oldest first, and remove their marks.

    The marks of an interval are one value, which is written whole. So they are removed for a fraction of the windows at
    once: for each window, it would take time that grows with the square of their number.
    """
    done: list[Refreshed] = []
    size = max(_LEAST_UNMARKED, len(wanted) // _UNMARKED_SHARE)
    for at in range(0, len(wanted), size):
        batch = wanted[at : at + size]
        for window in batch:
            told(aggregate, len(done), len(wanted))
            done.append(Refreshed(aggregate.view, window, await keeper.refresh(aggregate, window)))
        await keeper.unmark(aggregate, batch)
    return done


async def _joined(keeper: Keeper, aggregate: Aggregate, wanted: Sequence[TimeRange]) -> list[TimeRange]:
    """Join windows with little between them, such as those of a pair that is traded every few hours."""
    joined: list[TimeRange] = []
    at = 0
    while at < len(wanted):
        end = bisect_right(wanted, wanted[at].start + _LONGEST_WINDOW, lo=at + 1, key=lambda window: window.end)
        joined += await _joined_if_few(keeper, aggregate, wanted[at:end])
        at = end
    return joined


async def _joined_if_few(keeper: Keeper, aggregate: Aggregate, near: Sequence[TimeRange]) -> list[TimeRange]:
    if len(near) < 2:
        return list(near)
    whole = TimeRange(near[0].start, near[-1].end)
    base, materialized = len(near) * _ROWS_PER_WINDOW, len(near) * _KEPT_PER_WINDOW
    if await keeper.has_few_rows(aggregate, whole, base=base, materialized=materialized):
        return [whole]
    half = len(near) // 2
    return [
        *await _joined_if_few(keeper, aggregate, near[:half]),
        *await _joined_if_few(keeper, aggregate, near[half:]),
    ]


def windows(marked: Iterable[TimeRange], width: timedelta, closed_until: datetime) -> list[TimeRange]:
    """The windows to refresh: the marked buckets that are closed, near ones merged, oldest first."""
    end_of_closed = bucket_start(closed_until, width)
    merged: list[tuple[datetime, datetime]] = []
    for each in sorted(marked):
        start = bucket_start(each.start, width)
        end = min(end_of_closed, bucket_end(each.end, width))
        if start >= end:
            continue
        if merged and start - merged[-1][1] <= _BRIDGED_BUCKETS * width:
            start, end = merged[-1][0], max(end, merged.pop()[1])
        merged.append((start, end))
    return [piece for start, end in merged for piece in _pieces(start, end)]


def _pieces(start: datetime, end: datetime) -> Iterable[TimeRange]:
    while start < end:
        yield TimeRange(start, min(end, start + _LONGEST_WINDOW))
        start += _LONGEST_WINDOW


async def _take_up_marks(connection: Connection) -> None:
    """Move the marks of all symbols to each interval. The next write marks its hours again."""
    async with connection.transaction():
        rows = await connection.fetch(_LOCK_MARKS)
        if rows:
            symbols = [row["symbol"] for row in rows]
            await connection.execute(_HAND_OVER_MARKS, symbols)
            await connection.execute(_CLEAR_MARKS, symbols)


# Ordered by symbol, as writers lock the rows, so that the two do not deadlock.
_LOCK_MARKS = """
    SELECT symbol FROM data_sync_status WHERE data_type = 'candles_1m' AND stale_ranges <> '{}'
    ORDER BY symbol FOR UPDATE
"""

_HAND_OVER_MARKS = """
    UPDATE candle_aggregates SET stale_ranges = stale_ranges + (
        SELECT range_agg(stale_ranges) FROM data_sync_status WHERE data_type = 'candles_1m' AND symbol = ANY ($1)
    )
"""

_CLEAR_MARKS = """
    UPDATE data_sync_status SET stale_ranges = '{}' WHERE data_type = 'candles_1m' AND symbol = ANY ($1)
"""


async def _mark(connection: Connection, within: TimeRange) -> None:
    """Mark a range in each interval, as far as it has one-minute candles."""
    await connection.execute(_MARK, within.start, within.end)


_MARK = """
    UPDATE candle_aggregates SET stale_ranges = stale_ranges + coalesce((
        SELECT tstzmultirange(tstzrange(oldest, newest + interval '1 minute') * tstzrange($1, $2))
        FROM (SELECT min(timestamp) AS oldest, max(timestamp) AS newest FROM candles) AS c
        WHERE oldest IS NOT NULL
    ), '{}')
"""


async def _marked(connection: Connection, aggregate: Aggregate) -> list[TimeRange]:
    ranges = await connection.fetchval("SELECT stale_ranges FROM candle_aggregates WHERE name = $1", aggregate.view)
    return [TimeRange(each.lower, each.upper) for each in ranges]
