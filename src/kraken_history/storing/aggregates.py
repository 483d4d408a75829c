"""The refresh of the eight longer intervals.

:mod:`~kraken_history.storing.store` marks the hours whose one-minute candles changed. A refresh copies these marks to
each interval, and recomputes the marked buckets once they are closed. Buckets that are not refreshed yet stay marked in
the database. If a refresh dies at any point, the next one continues. For each interval this invariant holds:

    All time before its watermark is materialised or marked.

Readers compute time after the watermark from the source, so they are correct there without a refresh.

The newest time comes first: that of live candles does not wait until the import of many years is refreshed. Within 13
weeks, each interval follows its source.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import asyncpg
from msgspec import Struct

from kraken_history.database.connections import Connection
from kraken_history.database.locks import holding
from kraken_history.errors import ServiceUnavailable
from kraken_history.records import TimeRange
from kraken_history.storing.longer_intervals import AGGREGATES, Aggregate
from kraken_history.storing.materialized import Keeper, find_corrected, open_keeper
from kraken_history.storing.stale_time import SLICE, mark_candles, marked_time, slice_of, take_up_marks
from kraken_history.storing.windows import Window, halves, joined, windows

GRACE = timedelta(seconds=10)
"""Delay after its end until a bucket counts as closed: the last trades of its last minute arrive until then."""

_LOCK_KEY = 0x61676772656761  # an arbitrary constant; all versions must use the same
_TURN_S = 10.0  # after it, another process that waits for the lock gets it
_PAUSE_S = 0.2  # between two turns: others look every 0.05 s whether the lock is free
_NEXT_TURN_WITHIN_S = 120.0  # the turn of another process ends within its time and that of one window
_ROWS_PER_WINDOW = 200  # one-minute candles; reading so many costs less than a statement of their own
_KEPT_PER_WINDOW = 4  # materialised candles; each of them may have lost its rows, and then costs a statement
_MOST_ROWS = 1_000_000  # one-minute candles per statement, which takes some seconds
_NEVER_HALVED = timedelta(days=1)  # of 1,100 symbols, a day has up to 1,600,000 one-minute candles
_UNMARKED_AT_ONCE = 64  # windows whose marks one transaction removes


OnWindow = Callable[[Aggregate, int, int], object]
"""Called with an interval, the number of marks that are done, and the number of all, over all intervals."""


class Refreshed(Struct, frozen=True):
    """One window that was refreshed.

    Attributes:
        kept: Number of its buckets that lost base rows, and whose materialised candles were kept.
    """

    view: str
    window: TimeRange
    kept: int


class Turn(Struct, frozen=True):
    """What a process did while it had the lock.

    Attributes:
        is_last: No closed bucket is left marked that was marked when it began.
        marks_done: The number of marks that were removed, with those of earlier turns.
    """

    done: list[Refreshed]
    is_last: bool
    marks_done: int


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

    Works in turns of some seconds, between which other processes can refresh. If it is cancelled or fails, the
    remaining buckets stay marked.

    Args:
        within: Mark this range first, as far as it has one-minute candles.
        now: The time that decides which buckets are closed; by default, the present.
        wait_s: Seconds to wait for another refresh to end.
        told: Called before each window.

    Raises:
        RefreshIsRunning: The other refresh did not end in time.
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver raises them.
    """
    done: list[Refreshed] = []
    marks_done = 0
    while True:
        async with sole_refresher(pool, wait_s=wait_s) as connection:
            try:
                turn = await take_turn(connection, within=within, now=now, told=told, marks_done=marks_done)
            except asyncpg.LockNotAvailableError as error:  # TimescaleDB: a policy has locked the aggregate
                raise RefreshIsRunning(
                    "a candle aggregate is locked, perhaps by a refresh policy: try again"
                ) from error
        done += turn.done
        if turn.is_last:
            return done
        within, wait_s, marks_done = None, max(wait_s, _NEXT_TURN_WITHIN_S), turn.marks_done
        await asyncio.sleep(_PAUSE_S)


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


async def take_turn(
    connection: Connection,
    *,
    within: TimeRange | None = None,
    now: datetime | None = None,
    told: OnWindow = lambda *_: None,
    marks_done: int = 0,
) -> Turn:
    """As :func:`refresh`, for at most :data:`_TURN_S` and the time of one window.

    For a caller that holds the lock of :func:`sole_refresher`.
    """
    closed_until = (datetime.now(UTC) if now is None else now) - GRACE
    end_s = time.monotonic() + _TURN_S
    corrected = await find_corrected(connection)
    corrected.leave(await take_up_marks(connection))
    keeper = await open_keeper(connection, corrected)
    if within is not None:
        await mark_candles(connection, within)
    parts = await _parts(connection, closed_until)
    wanted = marks_done + sum(len(window.marks) for _, found in parts for window in found)
    done: list[Refreshed] = []
    is_last = True
    crowded: dict[datetime, bool] = {}
    for aggregate, found in parts:
        pieces = await _pieces(keeper, aggregate, found, crowded)
        while pieces and is_last:
            batch: list[Window] = []
            while pieces and len(batch) < _UNMARKED_AT_ONCE and is_last:
                told(aggregate, marks_done, wanted)
                window = pieces.pop(0)
                done.append(Refreshed(aggregate.view, window.range, await keeper.refresh(aggregate, window.range)))
                batch.append(window)
                marks_done += len(window.marks)
                is_last = time.monotonic() < end_s
            await keeper.unmark(aggregate, batch)
        if not is_last:
            break
    refreshed = {each.view for each in done}
    await keeper.note_refreshed([aggregate.view for aggregate in AGGREGATES if aggregate.view in refreshed])
    return Turn(done, is_last, marks_done)


async def _parts(connection: Connection, closed_until: datetime) -> list[tuple[Aggregate, list[Window]]]:
    """The windows of each interval, by slice: the newest slice first, and in it each interval after its source."""
    by_slice: dict[datetime, list[tuple[Aggregate, list[Window]]]] = {}
    for aggregate in AGGREGATES:
        marks: dict[datetime, list[TimeRange]] = {}
        for mark in await marked_time(connection, aggregate, closed_until):
            marks.setdefault(slice_of(mark.start), []).append(mark)
        for start, some in marks.items():
            found = windows(some, aggregate.width, closed_until)
            if found:
                by_slice.setdefault(start, []).append((aggregate, found))
    return [part for start in sorted(by_slice, reverse=True) for part in by_slice[start]]


async def _pieces(
    keeper: Keeper, aggregate: Aggregate, found: Sequence[Window], crowded: dict[datetime, bool]
) -> list[Window]:
    """The windows of a slice, so that a statement refreshes neither next to nothing nor for minutes.

    Windows with little between them are joined, such as those of a pair that is traded every few hours. Those with
    too many one-minute candles are halved.

    Args:
        crowded: By slice, whether it has that many; filled here.
    """
    pieces: list[Window] = []
    for window in await _joined_if_few(keeper, aggregate, found):
        is_crowded = False
        if aggregate.source == "candles" and window.range.duration > _NEVER_HALVED:
            start = slice_of(window.range.start)
            if start not in crowded:
                crowded[start] = not await _has_few(keeper, aggregate, TimeRange(start, start + SLICE))
            is_crowded = crowded[start]
        pieces += await _halved(keeper, aggregate, window) if is_crowded else [window]
    return pieces


async def _halved(keeper: Keeper, aggregate: Aggregate, window: Window) -> list[Window]:
    both = halves(window, aggregate.width)
    if both is None or window.range.duration <= _NEVER_HALVED or await _has_few(keeper, aggregate, window.range):
        return [window]
    return [piece for half in both for piece in await _halved(keeper, aggregate, half)]


async def _has_few(keeper: Keeper, aggregate: Aggregate, window: TimeRange) -> bool:
    return await keeper.has_few_rows(aggregate, window, base=_MOST_ROWS, materialized=_MOST_ROWS)


async def _joined_if_few(keeper: Keeper, aggregate: Aggregate, near: Sequence[Window]) -> list[Window]:
    if len(near) < 2:
        return list(near)
    whole = joined(near)
    base, materialized = len(near) * _ROWS_PER_WINDOW, len(near) * _KEPT_PER_WINDOW
    if await keeper.has_few_rows(aggregate, whole.range, base=base, materialized=materialized):
        return [whole]
    half = len(near) // 2
    return [
        *await _joined_if_few(keeper, aggregate, near[:half]),
        *await _joined_if_few(keeper, aggregate, near[half:]),
    ]
