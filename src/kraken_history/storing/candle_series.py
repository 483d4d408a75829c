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

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg
from msgspec import Struct

from kraken_history.completeness.covered_time import cover_candles
from kraken_history.database.connections import Connection, write_again
from kraken_history.records import MINUTE, CandleSource, TimeRange
from kraken_history.storing.announcing import announced_transaction
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
_SLICE_CANDLES = 50_000  # merged by one statement, which takes about a second
_PARTITIONS_AT_ONCE = 50  # per statement, which holds the locks of each until its end


class CandleSeries(Struct, frozen=True):
    """One-minute candles of one symbol in order of time, each minute once.

    Attributes:
        first, last: Open times of the first minute and of the last. They may be minutes without a candle.
        proven_until: From ``first`` until this time, minutes without a candle are proven quiet.
        blocks: Returns all candles, in blocks that are not empty; there may be none. It is called again if they must be
            written again. If it raises, the write ends and nothing is stored.
        told_merged: Called with the merged fraction of the candles, while they are merged with stored ones.
    """

    symbol: str
    source: CandleSource
    first: datetime
    last: datetime
    proven_until: datetime
    blocks: Callable[[], AsyncIterator[Candles]]
    told_merged: Callable[[float], object] = lambda _: None

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
    """Counts the copied candles and their hours. Hours are kept as runs, so that this stays small.

    Attributes:
        slices: First and last time of consecutive slices of :data:`_SLICE_CANDLES` candles or a little more.
    """

    candles: int = 0
    first: int = 0
    last: int = 0
    hours: list[list[int]] = []
    slices: list[tuple[int, int]] = []
    sliced: int = 0

    def add(self, times: list[int]) -> None:
        self.first, self.last = self.first if self.candles else times[0], times[-1]
        self.candles += len(times)
        if self.slices and self.sliced < _SLICE_CANDLES:
            self.slices[-1] = self.slices[-1][0], times[-1]
            self.sliced += len(times)
        else:
            self.slices.append((times[0], times[-1]))
            self.sliced = len(times)
        for hour in sorted({time // _HOUR_S for time in times}):
            if self.hours and hour <= self.hours[-1][1]:
                self.hours[-1][1] = hour + 1
            else:
                self.hours.append([hour, hour + 1])

    def stale_hours(self) -> list[TimeRange]:
        """The runs of hours."""
        return [TimeRange(_moment(first * _HOUR_S), _moment(end * _HOUR_S)) for first, end in self.hours]


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


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
        async with announced_transaction(self._connection):
            await self._take_turn()
            if await self._connection.fetchval(_ANY_CANDLE, series.symbol, series.first, series.end):
                return None
            await self._copy_into("candles")
            await lock_symbol(self._connection, series.symbol)
            passed = self._passed
            if passed.candles:
                await self._note(_moment(passed.first), _moment(passed.last), passed.candles, passed.stale_hours())
            await self._cover()
            return passed.candles, 0

    async def _merge(self, *, is_alone: bool = False) -> tuple[int, int]:
        """Copy into a temporary table; add the new candles from it, then merge the fuller ones.

        Stored candles only become fuller, so a candle that is not fuller now need not be checked again under the lock.

        Args:
            is_alone: True to lock the symbol before any candle is written, and to merge all candles. Then no other
                writer of the symbol interferes, but all of them wait. A deadlock with the compression of the table may
                still end it.
        """
        async with announced_transaction(self._connection):
            await self._take_turn()
            await self._connection.execute(_MAKE_STAGE)
            await self._copy_into("staged_candles")
            await self._make_ready("staged_candles")
            slices, added = self._passed.slices, list[asyncpg.Record]()
            if not is_alone:
                added = await self._add_new(slices)
                slices = [each for each, change in zip(slices, added, strict=True) if change["fuller"]]
            await lock_symbol(self._connection, self._series.symbol)
            changes = [*added, *await self._merge_slices("staged_candles" if is_alone else "fuller_candles", slices)]
            new = sum(change["new"] for change in changes)
            changed = [change for change in changes if change["changed"]]
            if changed:
                first, last = min(change["first"] for change in changed), max(change["last"] for change in changed)
                hours = [TimeRange(each.lower, each.upper) for change in changed for each in change["hours"]]
                await self._note(first, last, new, hours)
            await self._cover()
            return new, sum(change["changed"] for change in changed) - new

    async def _contest(self, table: str, first: datetime, last: datetime) -> None:
        """Withdraw the candles that would replace the own candle of a proven minute; note the other contested ones."""
        symbol = self._series.symbol
        rows = await self._connection.fetch(_CHALLENGED[table], symbol, first, last)
        challenged = {row["timestamp"] for row in rows}
        proven = await proven_minutes(self._connection, symbol, challenged)
        if proven:
            await self._connection.execute(_WITHDRAW[table], proven)
        await contest(self._connection, [(symbol, minute) for minute in challenged.difference(proven)])

    async def _add_new(self, slices: Sequence[tuple[int, int]]) -> list[asyncpg.Record]:
        await self._connection.execute(_MAKE_SECOND_STAGE)
        changes = []
        for number, (first, last) in enumerate(slices, 1):
            changes.append(await self._aggregate(_ADD_NEW, self._series.symbol, _moment(first), _moment(last)))
            self._series.told_merged(number / len(slices) / 2)  # the fuller ones are the other half
        await self._make_ready("fuller_candles")
        return changes

    async def _merge_slices(self, table: str, slices: Sequence[tuple[int, int]]) -> list[asyncpg.Record]:
        changes = []
        for number, (first, last) in enumerate(slices, 1):
            await self._contest(table, _moment(first), _moment(last))
            changes.append(await self._aggregate(_MERGE[table], _moment(first), _moment(last)))
            self._series.told_merged(0.5 + number / len(slices) / 2)
        return changes

    async def _make_ready(self, stage: str) -> None:
        """Let each slice of a stage be found."""
        if len(self._passed.slices) > 1:
            await self._connection.execute(_INDEX[stage])
        await self._connection.execute(f"ANALYZE {stage}")

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

    async def _note(self, first: datetime, last: datetime, new: int, stale: Sequence[TimeRange]) -> None:
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
           (SELECT range_agg(tstzrange(hour, hour + interval '1 hour'))
            FROM (SELECT DISTINCT date_bin('1 hour', timestamp, '2000-01-03 00:00:00+00') AS hour FROM merged) AS h
           ) AS hours"""

_MAKE_SECOND_STAGE = "CREATE TEMPORARY TABLE fuller_candles (LIKE staged_candles) ON COMMIT DROP"

# A single statement per slice, so that one snapshot decides which of its candles are new and which are fuller.
_ADD_NEW = f"""
    WITH wanted AS MATERIALIZED (
        SELECT o.*, c.timestamp IS NULL AS is_new
        FROM (SELECT * FROM staged_candles WHERE timestamp BETWEEN $2 AND $3) AS o LEFT JOIN (
            SELECT * FROM candles WHERE symbol = $1 AND timestamp BETWEEN $2 AND $3 AND interval_minutes = 1
        ) AS c ON c.timestamp = o.timestamp
        WHERE c.timestamp IS NULL
           OR {is_fuller("o", "c")}
    ), kept AS (
        INSERT INTO fuller_candles SELECT {_NAMES} FROM wanted WHERE NOT is_new
    ), merged AS (
        INSERT INTO candles ({_NAMES}) SELECT {_NAMES} FROM wanted WHERE is_new RETURNING timestamp
    )
    SELECT count(*) AS new, (SELECT count(*) FROM wanted WHERE NOT is_new) AS fuller, {_CHANGED} FROM merged m
"""  # noqa: S608 — only constants of this module are put in

_OFFERED = "SELECT * FROM {table} WHERE timestamp BETWEEN $1 AND $2"
_STAGES = ("staged_candles", "fuller_candles")
_INDEX = {table: f"CREATE INDEX ON {table} (timestamp)" for table in _STAGES}
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
    {merging_candles(_OFFERED.format(table=table), "c.timestamp BETWEEN $1 AND $2", beats_trades=True)}
    SELECT count(*) FILTER (WHERE b.source IS NULL) AS new, {_CHANGED}
    FROM merged m LEFT JOIN before b USING (symbol, timestamp)
"""  # noqa: S608 — only constants of this module are put in
    for table in _STAGES
}
