"""Refreshes a window of the materialised candles of the longer intervals, on either kind of server.

If a bucket now has fewer trades than its materialised candle, it has lost base rows, and the materialised candle must
be kept. There is one exception: a one-minute candle that was corrected may have fewer trades than before. The table
``corrected_minutes`` holds the difference until the bucket is refreshed.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import asyncpg

from kraken_history.database.connections import Connection
from kraken_history.database.migrations import CONTINUOUS_AGGREGATES, kept_capabilities
from kraken_history.records import TimeRange
from kraken_history.storing.candle_rules import VALUES, assigned, longer_candles, row
from kraken_history.storing.longer_intervals import Aggregate


class Keeper(Protocol):
    """Refreshes materialised candles."""

    async def refresh(self, aggregate: Aggregate, window: TimeRange) -> int:
        """Recompute the buckets of a window and remove its marks; return how many lost rows and were kept."""

    async def note_refreshed(self, views: Sequence[str]) -> None:
        """Record that these views were refreshed."""


class Corrected:
    """The minutes that were corrected before a refresh, by the time of its marks.

    A refresh takes only these into account as done. One that is corrected later has its mark taken up by the next
    refresh: its minutes may be newer than the shorter candles from which a longer one is made now.
    """

    def __init__(self, rows: Sequence[asyncpg.Record]) -> None:
        self._rows = rows

    async def forget(self, connection: Connection, aggregate: Aggregate, window: TimeRange) -> None:
        """Delete those of a window that was refreshed, unless they were corrected again."""
        done = [
            row for row in self._rows if row["name"] == aggregate.view and window.start <= row["timestamp"] < window.end
        ]
        if done:
            columns = [[row[name] for row in done] for name in ("symbol", "timestamp", "trade_count")]
            await connection.execute(_FORGET_CORRECTED, aggregate.view, *columns)


async def open_keeper(connection: Connection) -> Keeper:
    """The keeper for the database's kind of server. Open it before the marks are taken up."""
    corrected = Corrected(await connection.fetch("SELECT name, symbol, timestamp, trade_count FROM corrected_minutes"))
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
    """Refreshes the tables of a server without continuous aggregates, each window in one transaction."""

    def __init__(self, connection: Connection, corrected: Corrected) -> None:
        self._connection = connection
        self._corrected = corrected

    async def refresh(self, aggregate: Aggregate, window: TimeRange) -> int:
        async with self._connection.transaction():
            kept: int = await self._connection.fetchval(
                _merge(aggregate, f"{aggregate.view}_rows"), window.start, window.end
            )
            await self._connection.execute(_ADVANCE, aggregate.view, _multirange(window), window.end)
            await self._corrected.forget(self._connection, aggregate, window)
        return kept

    async def note_refreshed(self, views: Sequence[str]) -> None:
        await self._connection.execute(_NOTE_REFRESHED, views)


class ContinuousKeeper:
    """Refreshes continuous aggregates. That is impossible inside a transaction, so the marks are removed afterwards.

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

    async def refresh(self, aggregate: Aggregate, window: TimeRange) -> int:
        table = self._tables[aggregate.view]
        if await self._connection.fetchval(_ANY_WITHOUT_SOURCE.format(table=table), window.start, window.end):
            # They were stored before the source was. For TimescaleDB they are up to date.
            await self._connection.execute(_merge(aggregate, table), window.start, window.end)
        lossy = await self._lossy_buckets(aggregate, table, window)
        for start in lossy:
            await self._connection.execute(_merge(aggregate, table), start, start + aggregate.width)
        for start, end in _between(window, lossy, aggregate.width):
            await self._connection.execute(_REFRESH.format(view=aggregate.view, options=self._options), start, end)
        await self._connection.execute(_UNMARK, aggregate.view, _multirange(window))
        await self._corrected.forget(self._connection, aggregate, window)
        return len(lossy)

    async def _lossy_buckets(self, aggregate: Aggregate, table: str, window: TimeRange) -> list[datetime]:
        if not await self._connection.fetchval(_ANY_ROWS.format(table=table), window.start, window.end):
            return []
        rows = await self._connection.fetch(
            _LOSSY_BUCKETS.format(table=table, fresh=_fresh(aggregate), allowed=_allowed(aggregate)),
            window.start,
            window.end,
        )
        return [row["timestamp"] for row in rows]

    async def note_refreshed(self, views: Sequence[str]) -> None:
        async with self._connection.transaction():
            await self._connection.execute(_START_POLICIES, views)
            await self._connection.execute(_NOTE_REFRESHED, views)


def _multirange(window: TimeRange) -> str:
    return f"{{[{window.start.isoformat()},{window.end.isoformat()})}}"


def _between(window: TimeRange, buckets: Iterable[datetime], width: timedelta) -> list[tuple[datetime, datetime]]:
    """The parts of a window outside these buckets."""
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
         (c.materialization_hypertable_schema, c.materialization_hypertable_name)  -- as older versions show it
     )
    WHERE a.name = ANY ($1) AND a.refreshed_at IS NULL
"""

_FORGET_CORRECTED = """
    DELETE FROM corrected_minutes k
    USING unnest($2::text[], $3::timestamptz[], $4::bigint[]) AS s (symbol, timestamp, trade_count)
    WHERE k.name = $1 AND (k.symbol, k.timestamp, k.trade_count) = (s.symbol, s.timestamp, s.trade_count)
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
