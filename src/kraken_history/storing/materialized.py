"""Refreshes a window of the materialised candles of the longer intervals, on either kind of server.

If a bucket now has fewer trades than its materialised candle, it has lost base rows, and the materialised candle must
be kept. There is one exception: a one-minute candle that was corrected may have fewer trades than before. The table
``corrected_minutes`` holds the difference until the bucket is refreshed.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import asyncpg

from kraken_history.database.connections import Connection
from kraken_history.database.migrations import CONTINUOUS_AGGREGATES, kept_capabilities
from kraken_history.records import TimeRange
from kraken_history.storing.candle_rules import VALUES, assigned, longer_candles, row
from kraken_history.storing.longer_intervals import Aggregate
from kraken_history.storing.stale_time import remove_marks
from kraken_history.storing.windows import Window, removal


class Keeper(Protocol):
    """Refreshes materialised candles."""

    async def has_few_rows(self, aggregate: Aggregate, window: TimeRange, *, base: int, materialized: int) -> bool:
        """True if a window has at most so many one-minute candles, and so many materialised ones."""

    async def refresh(self, aggregate: Aggregate, window: TimeRange) -> int:
        """Recompute the buckets of a window; return how many lost rows and were kept."""

    async def unmark(self, aggregate: Aggregate, refreshed: Sequence[Window]) -> None:
        """Remove the marks of windows that were refreshed, oldest first, and move the watermark past the last."""

    async def replace(self, aggregate: Aggregate, symbol: str, window: TimeRange, kept: str) -> None:
        """Compute a symbol's candles of a window again, in one transaction. The sources must be right.

        Unlike :meth:`refresh` it also replaces candles with more trades than their minutes have, if the trades in the
        ledger prove the minutes. Otherwise minutes may have been deleted, and the longer candle is all that is left.

        Args:
            kept: A ``tstzmultirange``: time whose trades are lost, so that they prove nothing.
        """

    async def note_refreshed(self, views: Sequence[str]) -> None:
        """Record that these views were refreshed."""


class Corrected:
    """The minutes that were corrected before a refresh, by the time of its marks.

    A refresh takes only these into account as done. One that is corrected later has its mark taken up by the next
    refresh: its minutes may be newer than the shorter candles from which a longer one is made now.
    """

    def __init__(self, rows: Sequence[asyncpg.Record]) -> None:
        self._rows = rows

    def leave(self, symbols: Collection[str]) -> None:
        """Leave the minutes of symbols whose marks were not taken up: their shorter candles are not refreshed now."""
        self._rows = [row for row in self._rows if row["symbol"] not in symbols]

    async def forget(self, connection: Connection, aggregate: Aggregate, refreshed: Sequence[TimeRange]) -> None:
        """Delete those of windows that were refreshed, oldest first, unless they were corrected again."""
        done = [row for row in self._rows if row["name"] == aggregate.view and _is_within(row["timestamp"], refreshed)]
        if done:
            columns = [[row[name] for row in done] for name in ("symbol", "timestamp", "trade_count")]
            await connection.execute(_FORGET_CORRECTED, aggregate.view, *columns)


def _is_within(moment: datetime, windows: Sequence[TimeRange]) -> bool:
    before = bisect_right(windows, moment, key=lambda window: window.start)
    return bool(before) and moment < windows[before - 1].end


async def find_corrected(connection: Connection) -> Corrected:
    """The minutes that are corrected now. Find them before the marks are taken up."""
    return Corrected(await connection.fetch("SELECT name, symbol, timestamp, trade_count FROM corrected_minutes"))


async def open_keeper(connection: Connection, corrected: Corrected | None = None) -> Keeper:
    """The keeper for the database's kind of server.

    Args:
        corrected: Needed to remove marks.
    """
    corrected = corrected or Corrected(())
    if CONTINUOUS_AGGREGATES not in await kept_capabilities(connection):
        return TableKeeper(connection, corrected)
    tables = await connection.fetch(_MATERIALIZATIONS)
    version = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    return ContinuousKeeper(
        connection,
        corrected,
        {row["view"]: row["materialization"] for row in tables},
        is_batched=tuple(map(int, version.split(".")[:2])) >= _BATCHED_SINCE,
    )


_BATCHED_SINCE = 2, 28  # since this version TimescaleDB refreshes in batches


_MATERIALIZATIONS = """
    SELECT view_name::text AS view,
           format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name) AS materialization
    FROM timescaledb_information.continuous_aggregates WHERE view_schema = current_schema
"""


class TableKeeper:
    """Refreshes the tables of a server without continuous aggregates, each window in one statement."""

    def __init__(self, connection: Connection, corrected: Corrected) -> None:
        self._connection = connection
        self._corrected = corrected

    async def has_few_rows(self, aggregate: Aggregate, window: TimeRange, *, base: int, materialized: int) -> bool:
        return await _has_few_rows(self._connection, f"{aggregate.view}_rows", window, base, materialized)

    async def refresh(self, aggregate: Aggregate, window: TimeRange) -> int:
        kept: int = await self._connection.fetchval(
            _merge(aggregate, f"{aggregate.view}_rows"), window.start, window.end
        )
        return kept

    async def replace(self, aggregate: Aggregate, symbol: str, window: TimeRange, kept: str) -> None:
        await _replace(self._connection, aggregate, f"{aggregate.view}_rows", symbol, window, kept)

    async def unmark(self, aggregate: Aggregate, refreshed: Sequence[Window]) -> None:
        async with self._connection.transaction():
            await _unmark(self._connection, self._corrected, aggregate, refreshed)
            await self._connection.execute(_ADVANCE, aggregate.view, refreshed[-1].range.end)

    async def note_refreshed(self, views: Sequence[str]) -> None:
        await self._connection.execute(_NOTE_REFRESHED, views)


class ContinuousKeeper:
    """Refreshes continuous aggregates, which is impossible inside a transaction.

    A refresh replaces whole buckets. Buckets with lost rows are excluded from it; instead their new and fuller candles
    are merged into the materialised rows. Otherwise filling one symbol years later would delete another one's history.
    """

    def __init__(
        self, connection: Connection, corrected: Corrected, tables: dict[str, str], *, is_batched: bool
    ) -> None:
        self._connection = connection
        self._corrected = corrected
        self._tables = tables
        # By default TimescaleDB refreshes a long range in many small batches, which takes ten times longer.
        self._options = """, options => '{"buckets_per_batch": 0}'""" if is_batched else ""

    async def has_few_rows(self, aggregate: Aggregate, window: TimeRange, *, base: int, materialized: int) -> bool:
        return await _has_few_rows(self._connection, self._tables[aggregate.view], window, base, materialized)

    async def refresh(self, aggregate: Aggregate, window: TimeRange) -> int:
        table = self._tables[aggregate.view]
        if await self._connection.fetchval(_ANY_WITHOUT_SOURCE.format(table=table), window.start, window.end):
            # They were stored before the source was. For TimescaleDB they are up to date.
            await self._connection.execute(_merge(aggregate, table), window.start, window.end)
        lossy = await self._lossy_buckets(aggregate, table, window)
        for start in lossy:
            await self._connection.execute(_merge(aggregate, table), start, start + aggregate.width)
        for start, end in _between(window, lossy, aggregate.width):
            names = {"view": aggregate.view, "options": self._options}
            await self._connection.execute(_REFRESH.format(start=start.isoformat(), end=end.isoformat(), **names))
        return len(lossy)

    async def unmark(self, aggregate: Aggregate, refreshed: Sequence[Window]) -> None:
        async with self._connection.transaction():
            await _unmark(self._connection, self._corrected, aggregate, refreshed)

    async def _lossy_buckets(self, aggregate: Aggregate, table: str, window: TimeRange) -> list[datetime]:
        if not await self._connection.fetchval(_ANY_ROWS.format(table=table), window.start, window.end):
            return []
        rows = await self._connection.fetch(
            _LOSSY_BUCKETS.format(table=table, fresh=_fresh(aggregate), allowed=_allowed(aggregate)),
            window.start,
            window.end,
        )
        return [row["timestamp"] for row in rows]

    async def replace(self, aggregate: Aggregate, symbol: str, window: TimeRange, kept: str) -> None:
        await _replace(self._connection, aggregate, self._tables[aggregate.view], symbol, window, kept)

    async def note_refreshed(self, views: Sequence[str]) -> None:
        async with self._connection.transaction():
            await self._connection.execute(_START_POLICIES, views)
            await self._connection.execute(_NOTE_REFRESHED, views)


async def _has_few_rows(connection: Connection, table: str, window: TimeRange, base: int, materialized: int) -> bool:
    has_few: bool = await connection.fetchval(
        _HAS_FEW_ROWS.format(table=table), window.start, window.end, base, materialized
    )
    return has_few


async def _unmark(
    connection: Connection, corrected: Corrected, aggregate: Aggregate, refreshed: Sequence[Window]
) -> None:
    await remove_marks(connection, aggregate, *removal(refreshed))
    await corrected.forget(connection, aggregate, [window.range for window in refreshed])


def _between(window: TimeRange, buckets: Iterable[datetime], width: timedelta) -> list[tuple[datetime, datetime]]:
    """The parts of a window outside these buckets."""
    left, start = [], window.start
    for bucket in buckets:
        if start < bucket:
            left.append((start, bucket))
        start = bucket + width
    return [*left, (start, window.end)] if start < window.end else left


# Without parameters, so that it is one message and needs no transaction behind a pooler.
_REFRESH = "CALL refresh_continuous_aggregate('{view}', '{start}'::timestamptz, '{end}'::timestamptz{options})"

_ADVANCE = """
    UPDATE candle_aggregates SET materialized_until = $2 WHERE name = $1 AND materialized_until < $2::timestamptz
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
         (c.materialization_hypertable_schema, c.materialization_hypertable_name)  -- as older versions show it
     )
    WHERE a.name = ANY ($1) AND a.refreshed_at IS NULL
"""

_HAS_FEW_ROWS = """
    SELECT NOT EXISTS (SELECT FROM candles WHERE timestamp >= $1 AND timestamp < $2 OFFSET $3)
       AND NOT EXISTS (SELECT FROM {table} WHERE timestamp >= $1 AND timestamp < $2 OFFSET $4)
"""

_FORGET_CORRECTED = """
    DELETE FROM corrected_minutes k
    USING unnest($2::text[], $3::timestamptz[], $4::bigint[]) AS s (symbol, timestamp, trade_count)
    WHERE k.name = $1 AND (k.symbol, k.timestamp, k.trade_count) = (s.symbol, s.timestamp, s.trade_count)
"""

# A minute that is still marked may be newer than the shorter candles: the refresh of its mark needs it.
_FORGET_REPLACED = """
    DELETE FROM corrected_minutes k
    WHERE k.name = $1 AND k.symbol = $2 AND k.timestamp >= $3 AND k.timestamp < $4
      AND NOT EXISTS (
          SELECT FROM stale_buckets s
          WHERE s.name = k.name AND s.start_time <= k.timestamp AND s.end_time > k.timestamp
      )
      AND NOT EXISTS (
          SELECT FROM stale_hours s
          WHERE s.symbol = k.symbol AND s.start_time <= k.timestamp AND s.end_time > k.timestamp
      )
"""

_ANY_WITHOUT_SOURCE = """
    SELECT EXISTS (SELECT FROM {table} WHERE timestamp >= $1 AND timestamp < $2 AND source IS NULL)
"""

_ANY_ROWS = "SELECT EXISTS (SELECT FROM {table} WHERE timestamp >= $1 AND timestamp < $2)"

_LOSSY_BUCKETS = """
    SELECT DISTINCT m.timestamp
    FROM {table} m
    LEFT JOIN ({fresh}) AS f USING (symbol, timestamp)
    LEFT JOIN ({allowed}) AS a USING (symbol, timestamp)
    WHERE m.timestamp >= $1 AND m.timestamp < $2
      AND m.trade_count - coalesce(a.trade_count, 0) > coalesce(f.trade_count, 0)
    ORDER BY m.timestamp
"""

_KEPT = (*VALUES, "source")
_COLUMNS = ", ".join(("symbol", "timestamp", "interval_minutes", *_KEPT))


def _fresh(aggregate: Aggregate) -> str:
    """The query of an interval's buckets between $1 and $2, equal to its view digit for digit."""
    only = "AND interval_minutes = 1" if aggregate.source == "candles" else ""
    source = f"SELECT * FROM {aggregate.source} WHERE timestamp >= $1 AND timestamp < $2 {only}"  # noqa: S608 — ours
    return longer_candles(source, aggregate.minutes)


async def _replace(
    connection: Connection, aggregate: Aggregate, table: str, symbol: str, window: TimeRange, kept: str
) -> None:
    async with connection.transaction():
        await connection.execute(_REMOVE.format(table=table), symbol, window.start, window.end, aggregate.width, kept)
        await connection.execute(_merge(aggregate, table), window.start, window.end)
        await connection.execute(_FORGET_REPLACED, aggregate.view, symbol, window.start, window.end)


# A candle's minutes are proven if all of its time that ever had a candle lies between the oldest and the newest trade.
_REMOVE = """
    WITH unproven AS MATERIALIZED (
        SELECT coalesce(range_agg(each), '{{}}') AS ranges
        FROM (SELECT unnest(ranges) FROM dropped_ranges WHERE relation IN ('trades', 'candles')
              UNION ALL SELECT unnest($5::text::tstzmultirange)) AS d (each)
    ), ledger AS MATERIALIZED (
        SELECT tstzmultirange(tstzrange(t.oldest_timestamp - interval '1 minute', t.newest_timestamp, '[]')) AS trades,
               tstzmultirange(tstzrange(c.oldest_timestamp, c.newest_timestamp, '[]')) AS candles
        FROM data_sync_status t JOIN data_sync_status c ON c.symbol = t.symbol AND c.data_type = 'candles_1m'
        WHERE t.symbol = $1 AND t.data_type = 'trades' AND t.oldest_timestamp IS NOT NULL
    )
    DELETE FROM {table} m USING ledger l, unproven u
    WHERE m.symbol = $1 AND m.timestamp >= $2 AND m.timestamp < $3
      AND NOT tstzrange(m.timestamp, m.timestamp + $4::interval) && u.ranges
      AND tstzmultirange(tstzrange(m.timestamp, m.timestamp + $4::interval)) * l.candles <@ l.trades
"""


def _allowed(aggregate: Aggregate) -> str:
    """The query for how many trades fewer the buckets between $1 and $2 may have."""
    width = f"interval '{aggregate.minutes} minutes'"
    return f"""
    SELECT symbol, date_bin({width}, timestamp, timestamptz '2000-01-03 00:00:00+00') AS timestamp,
           sum(trade_count) AS trade_count
    FROM corrected_minutes WHERE name = '{aggregate.view}' AND timestamp >= $1 AND timestamp < $2 GROUP BY 1, 2
    """  # noqa: S608 — ours


def _merge(aggregate: Aggregate, table: str) -> str:
    return _MERGE.format(fresh=_fresh(aggregate), allowed=_allowed(aggregate), table=table)


# Compares text, because 1.0 = 1.00 as numbers, and the digits matter. A candle with fewer trades than the stored one
# has lost rows; it changes nothing, and neither does one that has disappeared. Returns the number of such buckets.
_MERGE = f"""
    WITH fresh AS MATERIALIZED (
        {{fresh}}
    ), allowed AS MATERIALIZED (
        {{allowed}}
    ), updated AS (
        UPDATE {{table}} m
        SET {assigned(_KEPT, "f")}
        FROM fresh f LEFT JOIN allowed a USING (symbol, timestamp)
        WHERE m.symbol = f.symbol AND m.timestamp = f.timestamp AND m.timestamp >= $1 AND m.timestamp < $2
          AND f.trade_count >= m.trade_count - coalesce(a.trade_count, 0)
          AND {row(_KEPT, "m")}::text <> {row(_KEPT, "f")}::text
    ), inserted AS (
        INSERT INTO {{table}} ({_COLUMNS})
        SELECT {_COLUMNS} FROM fresh f
        WHERE NOT EXISTS (
            SELECT FROM {{table}} m
            WHERE m.symbol = f.symbol AND m.timestamp = f.timestamp AND m.timestamp >= $1 AND m.timestamp < $2
        )
    )
    SELECT count(DISTINCT m.timestamp)
    FROM {{table}} m LEFT JOIN fresh f USING (symbol, timestamp) LEFT JOIN allowed a USING (symbol, timestamp)
    WHERE m.timestamp >= $1 AND m.timestamp < $2
      AND m.trade_count - coalesce(a.trade_count, 0) > coalesce(f.trade_count, 0)
"""  # noqa: S608 — only constants are put in
