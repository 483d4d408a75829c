"""Refreshes a window of the materialised candles of the longer intervals, on either kind of server.

One-minute candles only become fuller. If a bucket now has fewer trades than its materialised candle, it has lost base
rows, and the materialised candle must be kept.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

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


async def open_keeper(connection: Connection) -> Keeper:
    """The keeper for the database's kind of server."""
    if CONTINUOUS_AGGREGATES not in await kept_capabilities(connection):
        return TableKeeper(connection)
    tables = await connection.fetch(_MATERIALIZATIONS)
    version = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    return ContinuousKeeper(
        connection,
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


class ContinuousKeeper:
    """Refreshes continuous aggregates. That is impossible inside a transaction, so the marks are removed afterwards.

    A refresh replaces whole buckets. Buckets with lost rows are excluded from it; instead their new and fuller candles
    are merged into the materialised rows. Otherwise filling one symbol years later would delete another one's history.
    """

    def __init__(self, connection: Connection, tables: dict[str, str], *, is_batched: bool) -> None:
        self._connection = connection
        self._tables = tables
        # By default TimescaleDB refreshes a long range in many small batches, which takes ten times longer.
        self._options = """, options => '{"buckets_per_batch": 0}'""" if is_batched else ""

    async def refresh(self, aggregate: Aggregate, window: TimeRange) -> int:
        table = self._tables[aggregate.view]
        lossy = await self._lossy_buckets(aggregate, table, window)
        for start in lossy:
            await self._connection.execute(_merge(aggregate, table), start, start + aggregate.width)
        for start, end in _between(window, lossy, aggregate.width):
            names = {"view": aggregate.view, "options": self._options}
            await self._connection.execute(_REFRESH.format(start=start.isoformat(), end=end.isoformat(), **names))
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


# Without parameters, so that it is one message and needs no transaction behind a pooler.
_REFRESH = "CALL refresh_continuous_aggregate('{view}', '{start}'::timestamptz, '{end}'::timestamptz{options})"

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

_ANY_ROWS = "SELECT EXISTS (SELECT FROM {table} WHERE timestamp >= $1 AND timestamp < $2)"

_LOSSY_BUCKETS = """
    SELECT DISTINCT m.timestamp
    FROM {table} m LEFT JOIN ({fresh}) AS f USING (symbol, timestamp)
    WHERE m.timestamp >= $1 AND m.timestamp < $2 AND m.trade_count > coalesce(f.trade_count, 0)
    ORDER BY m.timestamp
"""

_COLUMNS = ", ".join(("symbol", "timestamp", "interval_minutes", *VALUES))


def _fresh(aggregate: Aggregate) -> str:
    """The query of an interval's buckets between $1 and $2, equal to its view digit for digit."""
    only = "AND interval_minutes = 1" if aggregate.source == "candles" else ""
    source = f"SELECT * FROM {aggregate.source} WHERE timestamp >= $1 AND timestamp < $2 {only}"  # noqa: S608 — ours
    return longer_candles(source, aggregate.minutes)


def _merge(aggregate: Aggregate, table: str) -> str:
    return _MERGE.format(fresh=_fresh(aggregate), table=table)


# Compares text, because 1.0 = 1.00 as numbers, and the digits matter. A candle with fewer trades than the stored one
# has lost rows; it changes nothing, and neither does one that has disappeared. Returns the number of such buckets.
_MERGE = f"""
    WITH fresh AS MATERIALIZED (
        {{fresh}}
    ), updated AS (
        UPDATE {{table}} m
        SET {assigned(VALUES, "f")}
        FROM fresh f
        WHERE m.symbol = f.symbol AND m.timestamp = f.timestamp AND m.timestamp >= $1 AND m.timestamp < $2
          AND f.trade_count >= m.trade_count
          AND {row(VALUES, "m")}::text <> {row(VALUES, "f")}::text
    ), inserted AS (
        INSERT INTO {{table}} ({_COLUMNS})
        SELECT {_COLUMNS} FROM fresh f
        WHERE NOT EXISTS (
            SELECT FROM {{table}} m
            WHERE m.symbol = f.symbol AND m.timestamp = f.timestamp AND m.timestamp >= $1 AND m.timestamp < $2
        )
    )
    SELECT count(DISTINCT m.timestamp)
    FROM {{table}} m LEFT JOIN fresh f USING (symbol, timestamp)
    WHERE m.timestamp >= $1 AND m.timestamp < $2 AND m.trade_count > coalesce(f.trade_count, 0)
"""  # noqa: S608 — only constants are put in
