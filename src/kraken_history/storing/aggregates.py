"""The eight longer intervals, and the refresh that keeps them.

:mod:`~kraken_history.storing.store` marks the hours whose one-minute candles changed. A refresh takes these marks up,
for each interval, and computes the touched buckets anew once they are closed. What was not refreshed yet stays
marked, in the database, so that a refresh may die anywhere and the next one goes on. At all times holds, for each
interval:

    What lies before its watermark is materialised, or marked.

Readers take what lies after the watermark from the source, so they are right there without any refresh.

Base rows can be dropped: by retention, or by hand. One-minute candles only ever get fuller, so a bucket that now
has fewer trades than its materialised candle has lost rows below it, and that candle is history to be kept.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import asyncpg
from msgspec import Struct

from kraken_history.database.connections import Connection
from kraken_history.database.migrations import CONTINUOUS_AGGREGATES, kept_capabilities
from kraken_history.errors import ServiceUnavailable
from kraken_history.intervals import bucket_end, bucket_start
from kraken_history.records import TimeRange

GRACE = timedelta(seconds=10)
"""How long after its end a bucket counts as closed: the last trades of its last minute are still on their way."""

_LOCK_KEY = 0x61676772656761  # any constant of ours; all versions must agree on it
_LONGEST_WINDOW = timedelta(weeks=13)
_BRIDGED_BUCKETS = 12  # windows nearer than this are one: a statement costs more than a few buckets


class Aggregate(Struct, frozen=True):
    """One longer interval.

    Attributes:
        view: What readers read.
        source: What it is aggregated from; refreshed before.
    """

    view: str
    minutes: int
    source: str

    @property
    def width(self) -> timedelta:
        """Length of a bucket."""
        return timedelta(minutes=self.minutes)


AGGREGATES = (
    Aggregate("candles_5m", 5, "candles"),
    Aggregate("candles_15m", 15, "candles"),
    Aggregate("candles_30m", 30, "candles"),
    Aggregate("candles_1h", 60, "candles"),
    Aggregate("candles_4h", 240, "candles_1h"),
    Aggregate("candles_12h", 720, "candles_1h"),
    Aggregate("candles_1d", 1440, "candles_1h"),
    Aggregate("candles_1w", 10080, "candles_1d"),
)
"""Each after its source."""


class Refreshed(Struct, frozen=True):
    """One window that was refreshed.

    Attributes:
        kept: Buckets in it of which base rows are gone, and whose materialised candles were kept.
    """

    view: str
    window: TimeRange
    kept: int


class RefreshIsRunning(ServiceUnavailable):
    """Another process is refreshing; there is only ever one."""


async def refresh(
    pool: asyncpg.Pool, *, within: TimeRange | None = None, now: datetime | None = None, wait_s: float = 0
) -> list[Refreshed]:
    """Refresh every closed bucket that is marked; return the windows, in their order.

    Cancelled or failed, what is left stays marked.

    Args:
        within: Mark this range before, as far as there are one-minute candles in it.
        now: What is closed is judged by this time; by default, the present.
        wait_s: How long to wait for another refresh to end.

    Raises:
        RefreshIsRunning: It did not end.
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver says.
    """
    async with sole_refresher(pool, wait_s=wait_s) as connection:
        try:
            return await refresh_marked(connection, within=within, now=now)
        except asyncpg.LockNotAvailableError as error:  # TimescaleDB: a policy is at the same aggregate
            raise RefreshIsRunning("a policy of the database refreshes at this moment: try again") from error


async def refresh_if_free(pool: asyncpg.Pool, *, now: datetime | None = None, wait_s: float = 5.0) -> None:
    """:func:`refresh` at the end of a job that ran without a worker.

    If another refresh is running, or this user does not own what is refreshed, that one or the next takes up what is
    marked.
    """
    with suppress(RefreshIsRunning, asyncpg.InsufficientPrivilegeError):
        await refresh(pool, now=now, wait_s=wait_s)


@asynccontextmanager
async def sole_refresher(pool: asyncpg.Pool, *, wait_s: float = 0) -> AsyncIterator[Connection]:
    """A connection of the only process that now touches what is materialised.

    Raises:
        RefreshIsRunning: Another one does, and did not end within ``wait_s``.
    """
    async with pool.acquire() as connection:
        give_up = time.monotonic() + wait_s
        while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK_KEY):
            if time.monotonic() >= give_up:
                raise RefreshIsRunning("another refresh is running: it does the same work, or try again later")
            await asyncio.sleep(0.2)
        try:
            yield connection
        finally:
            try:
                await connection.fetchval("SELECT pg_advisory_unlock($1)", _LOCK_KEY)
            except BaseException as error:  # lost or cancelled: the end of the connection releases the lock
                connection.terminate()
                if not isinstance(error, Exception):
                    raise


async def refresh_marked(
    connection: Connection, *, within: TimeRange | None = None, now: datetime | None = None
) -> list[Refreshed]:
    """:func:`refresh`, by whoever has :func:`sole_refresher`."""
    closed_until = (datetime.now(UTC) if now is None else now) - GRACE
    keeper = await _open_keeper(connection)
    await _take_up_marks(connection)
    if within is not None:
        await _mark(connection, within)
    done: list[Refreshed] = []
    for aggregate in AGGREGATES:
        # Oldest first: a window moves the watermark to its end.
        for window in windows(await _marked(connection, aggregate), aggregate.width, closed_until):
            done.append(Refreshed(aggregate.view, window, await keeper.refresh(aggregate, window)))
    refreshed = {each.view for each in done}
    await keeper.note_refreshed([aggregate.view for aggregate in AGGREGATES if aggregate.view in refreshed])
    return done


def windows(marked: Iterable[TimeRange], width: timedelta, closed_until: datetime) -> list[TimeRange]:
    """What to refresh: whole closed buckets that hold all that is marked, near ones as one window, oldest first."""
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
    """Hand the marks of all symbols to each interval. The write that comes next marks anew."""
    async with connection.transaction():
        rows = await connection.fetch(_LOCK_MARKS)
        if rows:
            symbols = [row["symbol"] for row in rows]
            await connection.execute(_HAND_OVER_MARKS, symbols)
            await connection.execute(_CLEAR_MARKS, symbols)


# In the order in which writers lock them.
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
    """Mark a range in each interval, as far as there are one-minute candles."""
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


def _multirange(window: TimeRange) -> str:
    return f"{{[{window.start.isoformat()},{window.end.isoformat()})}}"


async def _open_keeper(connection: Connection) -> "_TableKeeper | _ContinuousKeeper":
    if CONTINUOUS_AGGREGATES not in await kept_capabilities(connection):
        return _TableKeeper(connection)
    tables = await connection.fetch(_MATERIALIZATIONS)
    version = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    return _ContinuousKeeper(
        connection,
        {row["view"]: row["materialization"] for row in tables},
        is_batched=tuple(map(int, version.split(".")[:2])) >= _BATCHED_SINCE,
    )


_BATCHED_SINCE = 2, 28


_MATERIALIZATIONS = """
    SELECT view_name::text AS view,
           format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name) AS materialization
    FROM timescaledb_information.continuous_aggregates WHERE view_schema = current_schema
"""


class _TableKeeper:
    """Refreshes the tables of a server without continuous aggregates, each window in one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def refresh(self, aggregate: Aggregate, window: TimeRange) -> int:
        async with self._connection.transaction():
            kept: int = await self._connection.fetchval(
                _merge(aggregate, f"{aggregate.view}_rows"), window.start, window.end
            )
            await self._connection.execute(_ADVANCE, aggregate.view, _multirange(window), window.end)
        return kept

    async def note_refreshed(self, views: Sequence[str]) -> None:
        await self._connection.execute(_NOTE_REFRESHED, views)


class _ContinuousKeeper:
    """Refreshes continuous aggregates, which cannot be done inside a transaction: the marks go afterwards.

    A refresh replaces whole buckets. Those with lost rows are left out of it, and what is new or fuller in them
    is merged into the materialised rows: a symbol that is filled in years later must not cost another its history.
    """

    def __init__(self, connection: Connection, tables: dict[str, str], *, is_batched: bool) -> None:
        self._connection = connection
        self._tables = tables
        # Left to itself it refreshes a long range in many small batches, which takes ten times longer.
        self._options = """, options => '{"buckets_per_batch": 0}'""" if is_batched else ""

    async def refresh(self, aggregate: Aggregate, window: TimeRange) -> int:
        table = self._tables[aggregate.view]
        lossy = await self._lossy_buckets(aggregate, table, window)
        for start in lossy:
            await self._connection.execute(_merge(aggregate, table), start, start + aggregate.width)
        for start, end in _between(window, lossy, aggregate.width):
            await self._connection.execute(_REFRESH.format(view=aggregate.view, options=self._options), start, end)
        await self._connection.execute(_UNMARK, aggregate.view, _multirange(window))
        return len(lossy)

    async def _lossy_buckets(self, aggregate: Aggregate, table: str, window: TimeRange) -> list[datetime]:
        if not await self._connection.fetchval(_ANY_ROWS.format(table=table), window.start, window.end):
            return []
        rows = await self._connection.fetch(
            _LOSSY_BUCKETS.format(table=table, fresh=_fresh(aggregate)), window.start, window.end
        )
        return [row["timestamp"] for row in rows]

    async def note_refreshed(self, views: Sequence[str]) -> None:
        async with self._connection.transaction():
            await self._connection.execute(_START_POLICIES, views)
            await self._connection.execute(_NOTE_REFRESHED, views)


def _between(window: TimeRange, buckets: Iterable[datetime], width: timedelta) -> list[tuple[datetime, datetime]]:
    """What is left of a window without these buckets."""
    left, start = [], window.start
    for bucket in buckets:
        if start < bucket:
            left.append((start, bucket))
        start = bucket + width
    return [*left, (start, window.end)] if start < window.end else left


_REFRESH = "CALL refresh_continuous_aggregate('{view}', $1::timestamptz, $2::timestamptz{options})"

_UNMARK = "UPDATE candle_aggregates SET stale_ranges = stale_ranges - $2::text::tstzmultirange WHERE name = $1"

_ADVANCE = """
    UPDATE candle_aggregates
    SET stale_ranges = stale_ranges - $2::text::tstzmultirange,
        materialized_until = greatest(materialized_until, $3::timestamptz)
    WHERE name = $1
"""

_NOTE_REFRESHED = "UPDATE candle_aggregates SET refreshed_at = now() WHERE name = ANY ($1)"

_START_POLICIES = """
    SELECT alter_job(j.job_id, scheduled => true)
    FROM candle_aggregates a
    JOIN timescaledb_information.continuous_aggregates c
      ON c.view_name = a.name AND c.view_schema = current_schema
    JOIN timescaledb_information.jobs j
      ON j.proc_name = 'policy_refresh_continuous_aggregate'
     AND (j.hypertable_schema, j.hypertable_name) IN (
         (c.view_schema, c.view_name),
         (c.materialization_hypertable_schema, c.materialization_hypertable_name)  -- what older versions show
     )
    WHERE a.name = ANY ($1) AND a.refreshed_at IS NULL
"""

_ANY_ROWS = "SELECT EXISTS (SELECT FROM {table} WHERE timestamp >= $1 AND timestamp < $2)"

_LOSSY_BUCKETS = """
    SELECT DISTINCT m.timestamp
    FROM {table} m LEFT JOIN ({fresh}) AS f USING (symbol, timestamp)
    WHERE m.timestamp >= $1 AND m.timestamp < $2 AND m.trade_count > coalesce(f.trade_count, 0)
    ORDER BY m.timestamp
"""

_COLUMNS = "symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap"


def _fresh(aggregate: Aggregate) -> str:
    """The query of an interval's buckets between $1 and $2, digit for digit what its view computes."""
    return _FRESH.format(
        minutes=aggregate.minutes,
        source=aggregate.source,
        only="AND interval_minutes = 1" if aggregate.source == "candles" else "",
    )


def _merge(aggregate: Aggregate, table: str) -> str:
    return _MERGE.format(fresh=_fresh(aggregate), table=table, columns=_COLUMNS)


_FRESH = """
    SELECT
        symbol,
        date_bin(interval '{minutes} minutes', timestamp, timestamptz '2000-01-03 00:00:00+00') AS timestamp,
        {minutes}::smallint AS interval_minutes,
        (array_agg(open ORDER BY timestamp))[1] AS open,
        max(high) AS high,
        min(low) AS low,
        (array_agg(close ORDER BY timestamp DESC))[1] AS close,
        sum(volume) AS volume,
        sum(quote_volume) AS quote_volume,
        sum(trade_count)::bigint AS trade_count,
        coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
    FROM {source}
    WHERE timestamp >= $1 AND timestamp < $2 {only}
    GROUP BY 1, 2
"""

# Compared as text, because 1.0 = 1.00, and digits count. A candle with fewer trades than the stored one has lost
# rows; it, and one that is gone altogether, changes nothing. Returns how many buckets that was true of.
_MERGE = """
    WITH fresh AS MATERIALIZED (
        {fresh}
    ), updated AS (
        UPDATE {table} m
        SET open = f.open, high = f.high, low = f.low, close = f.close, volume = f.volume,
            quote_volume = f.quote_volume, trade_count = f.trade_count, vwap = f.vwap
        FROM fresh f
        WHERE m.symbol = f.symbol AND m.timestamp = f.timestamp AND m.timestamp >= $1 AND m.timestamp < $2
          AND f.trade_count >= m.trade_count
          AND ROW(m.open, m.high, m.low, m.close, m.volume, m.quote_volume, m.trade_count, m.vwap)::text
           <> ROW(f.open, f.high, f.low, f.close, f.volume, f.quote_volume, f.trade_count, f.vwap)::text
    ), inserted AS (
        INSERT INTO {table} ({columns})
        SELECT {columns} FROM fresh f
        WHERE NOT EXISTS (
            SELECT FROM {table} m
            WHERE m.symbol = f.symbol AND m.timestamp = f.timestamp AND m.timestamp >= $1 AND m.timestamp < $2
        )
    )
    SELECT count(DISTINCT m.timestamp)
    FROM {table} m LEFT JOIN fresh f USING (symbol, timestamp)
    WHERE m.timestamp >= $1 AND m.timestamp < $2 AND m.trade_count > coalesce(f.trade_count, 0)
"""
