"""Stores a long series of candles of one symbol, for example from a file, in one transaction.

If the symbol has no candle in the time of the series, the series is copied straight into the table. Otherwise it is
copied into a temporary table, from which new candles are added and fuller ones are merged.

The series locks the symbol only when nearly all rows are written, so that live trades need not wait for the whole
series. Every other writer of the symbol's candles holds the lock until the end of its transaction. When the series gets
the lock, their rows are committed; later writers wait for the series. If both wrote a row for the same minute before
that, one of them waits for the other and ends with a unique violation or a deadlock. Then the series is written again,
with the symbol locked from the beginning.

A series has written rows before it holds the lock, and these could conflict with another series that holds it.
Therefore the series of a symbol take turns.
"""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg
from msgspec import Struct

from kraken_history.completeness.covered_time import cover_candles
from kraken_history.database.connections import Connection, write_again
from kraken_history.records import MINUTE, CandleSource, TimeRange
from kraken_history.storing.candle_changes import note_candles
from kraken_history.storing.candle_rules import is_fuller
from kraken_history.storing.candle_text import COLUMNS, Candles, copy_text
from kraken_history.storing.candle_writing import merging_candles
from kraken_history.storing.contested import contest, proven_minutes
from kraken_history.storing.ledger_writing import lock_symbol
from kraken_history.storing.partitions import ensure_partitions

_HOUR_S = 3600
# Errors if another transaction writes the same minutes, or compresses them.
_IN_THE_WAY = (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_PARTITION_STEP = timedelta(days=7)  # the width of a partition of candles
_PARTITIONS_AT_ONCE = 50  # per statement, which holds the locks of each until its end


class CandleSeries(Struct, frozen=True):
    """One-minute candles of one symbol in order of time, each minute once.

    Attributes:
        first, last: Open times of the first candle and of the last.
        proven_until: From ``first`` until this time, minutes without a candle are proven quiet.
        blocks: Returns all candles, in blocks that are not empty. It is called again if they must be written again. If
            it raises, the write ends and nothing is stored.
    """

    symbol: str
    source: CandleSource
    first: datetime
    last: datetime
    proven_until: datetime
    blocks: Callable[[], AsyncIterator[Candles]]

    @property
    def end(self) -> datetime:
        """The end of the last minute."""
        return self.last + MINUTE


class StoredSeries(Struct, frozen=True):
    """The outcome of a transaction.

    Attributes:
        candles: The candles of the series.
        new: Minutes that had no candle before.
        replaced: Minutes whose candle was less full and was replaced.
    """

    candles: int
    new: int
    replaced: int


async def write_series(connection: Connection, series: CandleSeries) -> StoredSeries:
    """Store each candle unless the stored one is as full. The connection must not be in a transaction.

    Raises:
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver raises them; nothing is stored.
    """
    return await _SeriesWriter(connection, series).write()


class _Passed(Struct):
    """Counts the copied candles and their hours. Hours are kept as runs, so that this stays small."""

    candles: int = 0
    hours: list[list[int]] = []

    def add(self, times: list[int]) -> None:
        self.candles += len(times)
        for hour in sorted({time // _HOUR_S for time in times}):
            if self.hours and hour <= self.hours[-1][1]:
                self.hours[-1][1] = hour + 1
            else:
                self.hours.append([hour, hour + 1])

    def stale_ranges(self) -> str:
        """The hours as a multirange."""
        return "{" + ",".join(f"[{_instant(a)},{_instant(b)})" for a, b in self.hours) + "}"


def _instant(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * _HOUR_S, UTC)


class _SeriesWriter:
    def __init__(self, connection: Connection, series: CandleSeries) -> None:
        self._connection = connection
        self._series = series
        self._passed = _Passed()

    async def write(self) -> StoredSeries:
        await self._ensure_partitions()
        try:
            changed = await self._copy() or await self._merge()
        except _IN_THE_WAY:
            changed = await write_again(partial(self._merge, is_alone=True))
        return StoredSeries(self._passed.candles, *changed)

    async def _ensure_partitions(self) -> None:
        moments, moment = [self._series.last], self._series.first
        while moment < self._series.last:
            moments.append(moment)
            moment += _PARTITION_STEP
        for at in range(0, len(moments), _PARTITIONS_AT_ONCE):
            await ensure_partitions(self._connection, "candles", moments[at : at + _PARTITIONS_AT_ONCE])

    async def _take_turn(self) -> None:
        """Make other series of this symbol wait until the end of the transaction."""
        await self._connection.execute(_TAKE_TURN, self._series.symbol)

    async def _copy(self) -> tuple[int, int] | None:
        """Copy straight into the table if the symbol has no candle in the time of the series; else return None."""
        series = self._series
        async with self._connection.transaction():
            await self._take_turn()
            if await self._connection.fetchval(_ANY_CANDLE, series.symbol, series.first, series.end):
                return None
            await self._copy_into("candles")
            await lock_symbol(self._connection, series.symbol)
            new = self._passed.candles
            await self._note(series.first, series.last, new, self._passed.stale_ranges())
            await self._cover()
            return new, 0

    async def _merge(self, *, is_alone: bool = False) -> tuple[int, int]:
        """Copy into a temporary table; add the new candles from it, then merge the fuller ones.

        Stored candles only become fuller, so a candle that is not fuller now need not be checked again under the lock.

        Args:
            is_alone: True to lock the symbol before any candle is written, and to merge all candles. Then no other
                writer of the symbol interferes, but all of them wait. A deadlock with the compression of the table may
                still end it.
        """
        async with self._connection.transaction():
            await self._take_turn()
            await self._connection.execute(_MAKE_STAGE)
            await self._copy_into("staged_candles")
            await self._connection.execute("ANALYZE staged_candles")
            changes = [] if is_alone else [await self._add_new()]
            table = "staged_candles" if is_alone else "fuller_candles"
            left = await self._aggregate(_SPAN[table])
            await lock_symbol(self._connection, self._series.symbol)
            if left["first"] is not None:
                await self._contest(table, left["first"], left["last"])
                changes.append(await self._aggregate(_MERGE[table], left["first"], left["last"]))
            changes = [change for change in changes if change["changed"]]
            for change in changes:
                await self._note(change["first"], change["last"], change["new"], change["hours"])
            await self._cover()
            new = sum(change["new"] for change in changes)
            return new, sum(change["changed"] for change in changes) - new

    async def _contest(self, table: str, first: datetime, last: datetime) -> None:
        """Withdraw the candles that would replace the own candle of a proven minute; note the other contested ones."""
        symbol = self._series.symbol
        rows = await self._connection.fetch(_CHALLENGED[table], symbol, first, last)
        challenged = {row["timestamp"] for row in rows}
        proven = await proven_minutes(self._connection, symbol, challenged)
        if proven:
            await self._connection.execute(_WITHDRAW[table], proven)
        await contest(self._connection, [(symbol, minute) for minute in challenged.difference(proven)])

    async def _add_new(self) -> asyncpg.Record:
        await self._connection.execute(_MAKE_SECOND_STAGE)
        row = await self._aggregate(_ADD_NEW, self._series.symbol, self._series.first, self._series.end)
        await self._connection.execute("ANALYZE fuller_candles")
        return row

    async def _aggregate(self, statement: str, *arguments: object) -> asyncpg.Record:
        row = await self._connection.fetchrow(statement, *arguments)
        assert row is not None  # an aggregate returns one row
        return row

    async def _copy_into(self, table: str) -> None:
        self._passed = _Passed()
        await self._connection.copy_to_table(table, source=self._copy_text(), columns=COLUMNS)

    async def _copy_text(self) -> AsyncIterator[bytes]:
        async for candles in self._series.blocks():
            self._passed.add(candles.times)
            yield copy_text(self._series.symbol, candles, self._series.source)

    async def _note(self, first: datetime, last: datetime, new: int, stale: str) -> None:
        symbol = self._series.symbol
        await note_candles(self._connection, {symbol: (first, last)}, {symbol: new}, {symbol: stale})

    async def _cover(self) -> None:
        series = self._series
        if series.first < series.proven_until:
            await cover_candles(self._connection, series.symbol, TimeRange(series.first, series.proven_until))


# The key is that of the first importer: all versions must use the same.
_TAKE_TURN = "SELECT pg_advisory_xact_lock(hashtext('kraken_history.csv_import'), hashtext($1))"

_ANY_CANDLE = """
    SELECT EXISTS (
        SELECT FROM candles
        WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $2 AND timestamp < $3
    )
"""

_NAMES = ", ".join(COLUMNS)
_MAKE_STAGE = f"""
    CREATE TEMPORARY TABLE staged_candles ON COMMIT DROP AS
    SELECT {_NAMES} FROM candles WITH NO DATA
"""  # noqa: S608 — only constants of this module are put in

_CHANGED = """count(*) AS changed, min(m.timestamp) AS first, max(m.timestamp) AS last,
           (SELECT range_agg(tstzrange(hour, hour + interval '1 hour'))::text
            FROM (SELECT DISTINCT date_bin('1 hour', timestamp, '2000-01-03 00:00:00+00') AS hour FROM merged) AS h
           ) AS hours"""

_MAKE_SECOND_STAGE = "CREATE TEMPORARY TABLE fuller_candles (LIKE staged_candles) ON COMMIT DROP"

# A single statement, so that one snapshot of the table decides which candles are new and which are fuller.
_ADD_NEW = f"""
    WITH wanted AS MATERIALIZED (
        SELECT o.*, c.timestamp IS NULL AS is_new
        FROM staged_candles o LEFT JOIN (
            SELECT * FROM candles WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3 AND interval_minutes = 1
        ) AS c ON c.timestamp = o.timestamp
        WHERE c.timestamp IS NULL
           OR {is_fuller("o", "c")}
    ), kept AS (
        INSERT INTO fuller_candles SELECT {_NAMES} FROM wanted WHERE NOT is_new
    ), merged AS (
        INSERT INTO candles ({_NAMES}) SELECT {_NAMES} FROM wanted WHERE is_new RETURNING timestamp
    )
    SELECT count(*) AS new, {_CHANGED} FROM merged m
"""  # noqa: S608 — only constants of this module are put in

_STAGES = ("staged_candles", "fuller_candles")
_SPAN = {
    table: f"SELECT min(timestamp) AS first, max(timestamp) AS last FROM {table}"  # noqa: S608 — one of two constants
    for table in _STAGES
}
_CHALLENGED = {
    table: f"""
    SELECT o.timestamp FROM {table} o
    JOIN candles c ON c.timestamp = o.timestamp AND c.symbol = o.symbol AND c.interval_minutes = 1
    WHERE c.symbol = $1 AND c.timestamp BETWEEN $2 AND $3 AND c.source = 'trades' AND {is_fuller("o", "c")}
"""  # noqa: S608 — only constants of this module are put in
    for table in _STAGES
}
_WITHDRAW = {table: f"DELETE FROM {table} WHERE timestamp = ANY ($1)" for table in _STAGES}  # noqa: S608 — ours
_MERGE = {
    table: f"""
    {merging_candles(f"SELECT * FROM {table}", "c.timestamp BETWEEN $1 AND $2", beats_trades=True)}
    SELECT count(*) FILTER (WHERE b.source IS NULL) AS new, {_CHANGED}
    FROM merged m LEFT JOIN before b USING (symbol, timestamp)
"""  # noqa: S608 — only constants of this module are put in
    for table in _STAGES
}
