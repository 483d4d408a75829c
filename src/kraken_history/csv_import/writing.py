"""One file → rows, in one transaction."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import date, datetime, timedelta
from functools import lru_cache, partial

import asyncpg
from msgspec import Struct

from kraken_history.csv_import.extent import Extent, instant, reader_of
from kraken_history.csv_import.names import Content
from kraken_history.csv_import.refusal import CsvError
from kraken_history.csv_import.rows import Candles
from kraken_history.csv_import.sources import CsvFile
from kraken_history.database.connections import Connection, write_again
from kraken_history.storing.candle_changes import note_candles
from kraken_history.storing.candle_rules import is_fuller
from kraken_history.storing.candle_writing import merging_candles
from kraken_history.storing.store import lock_symbol

OnProgress = Callable[[int], object]
"""Told how many bytes of the file have been read; begins anew if the file has to be read again."""

COLUMNS = (
    "symbol", "timestamp", "interval_minutes", "open", "high", "low", "close", "volume", "quote_volume",
    "trade_count", "vwap", "source",
)  # fmt: skip

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
_EPOCH_DAY = date(1970, 1, 1)
_CLOCK = [f"T{minute // 60:02}:{minute % 60:02}Z" for minute in range(1440)]
# Somebody writes the same minutes, or compresses them.
_IN_THE_WAY = (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_PARTITION_STEP = timedelta(days=7)
_PARTITIONS_AT_ONCE = 50  # each holds locks until the end of its statement


class Written(Struct, frozen=True):
    """What the transaction did.

    Attributes:
        rows: Lines of the file, without a header.
        candles: The one-minute candles that they are or make.
        new: Minutes that had no candle before.
        replaced: Minutes whose candle was less full.
    """

    rows: int
    candles: int
    new: int
    replaced: int


class _Passed(Struct):
    """What has passed while a file was read; hours in runs, so that this stays small."""

    rows: int = 0
    candles: int = 0
    first: int = 0
    last: int = 0
    hours: list[list[int]] = []

    def add(self, times: list[int]) -> None:
        self.first = self.first or times[0]
        self.last = times[-1]
        self.candles += len(times)
        for hour in sorted({time // _HOUR_S for time in times}):
            if self.hours and hour <= self.hours[-1][1]:
                self.hours[-1][1] = hour + 1
            else:
                self.hours.append([hour, hour + 1])

    def stale_ranges(self) -> str:
        """The hours as a multirange."""
        return "{" + ",".join(f"[{instant(a * _HOUR_S)},{instant(b * _HOUR_S)})" for a, b in self.hours) + "}"


class FileWriter:
    """Writes one file over one connection, which is in no transaction."""

    def __init__(
        self, connection: Connection, file: CsvFile, content: Content, symbol: str, extent: Extent, told: OnProgress
    ) -> None:
        self._connection = connection
        self._file = file
        self._content = content
        self._symbol = symbol
        self._extent = extent
        self._told = told
        self._passed = _Passed()

    async def write(self) -> Written:
        """Store the file's candles, each where none stands that is as full.

        Raises:
            CsvError: A line is not right; nothing is stored.
        """
        await self._ensure_partitions()
        try:
            changed = await self._copy() or await self._merge()
        except _IN_THE_WAY:
            changed = await write_again(partial(self._merge, is_alone=True))
        return Written(self._passed.rows, self._passed.candles, *changed)

    async def _ensure_partitions(self) -> None:
        moments, moment = [self._extent.last], self._extent.first
        while moment < self._extent.last:
            moments.append(moment)
            moment += _PARTITION_STEP
        for at in range(0, len(moments), _PARTITIONS_AT_ONCE):
            some = moments[at : at + _PARTITIONS_AT_ONCE]
            await self._connection.execute("SELECT ensure_partitions('candles', $1)", some)

    # The symbol is locked when nearly all is written, so that its live trades need not wait for a whole file. Whoever
    # writes candles of this symbol holds the lock until the end of his transaction, and so does this one from here on:
    # all that he wrote is committed then, and what is written here he cannot have met. Had both a row for the same
    # minute, one would have waited for the other's, and ended with a unique violation or a deadlock.
    #
    # An importer has rows before he has the lock, and another one who has it could meet them: so they take turns.

    async def _take_turn(self) -> None:
        """Keep the other importers of this symbol from beginning, until the end of the transaction."""
        await self._connection.execute(_TAKE_TURN, self._symbol)

    async def _copy(self) -> tuple[int, int] | None:
        """Straight into the table if the symbol has no candle in the time of the file; else do nothing."""
        async with self._connection.transaction():
            await self._take_turn()
            if await self._connection.fetchval(_ANY_CANDLE, self._symbol, self._extent.first, self._extent.end):
                return None
            await self._copy_into("candles")
            await lock_symbol(self._connection, self._symbol)
            new = self._passed.candles
            await self._note(self._extent.first, self._extent.last, new, self._passed.stale_ranges())
            await self._cover()
            return new, 0

    async def _merge(self, *, is_alone: bool = False) -> tuple[int, int]:
        """Through a table of its own, from which what is new is added, and then what is fuller is merged.

        Candles only ever become fuller, so what is not fuller now need not be looked at again under the lock.

        Args:
            is_alone: Whether to lock the symbol before any candle is written, and merge all. This meets no other
                writer of the symbol, and keeps them waiting; a deadlock with what compresses the table may still
                end it.
        """
        async with self._connection.transaction():
            await self._take_turn()
            await self._connection.execute(_MAKE_STAGE)
            await self._copy_into("imported_candles")
            await self._connection.execute("ANALYZE imported_candles")
            changes = [] if is_alone else [await self._add_new()]
            table = "imported_candles" if is_alone else "fuller_candles"
            left = await self._aggregate(_SPAN[table])
            await lock_symbol(self._connection, self._symbol)
            if left["first"] is not None:
                changes.append(await self._aggregate(_MERGE[table], left["first"], left["last"]))
            changes = [change for change in changes if change["changed"]]
            for change in changes:
                await self._note(change["first"], change["last"], change["new"], change["hours"])
            await self._cover()
            new = sum(change["new"] for change in changes)
            return new, sum(change["changed"] for change in changes) - new

    async def _add_new(self) -> asyncpg.Record:
        await self._connection.execute(_MAKE_SECOND_STAGE)
        row = await self._aggregate(_ADD_NEW, self._symbol, self._extent.first, self._extent.end)
        await self._connection.execute("ANALYZE fuller_candles")
        return row

    async def _aggregate(self, statement: str, *arguments: object) -> asyncpg.Record:
        row = await self._connection.fetchrow(statement, *arguments)
        assert row is not None  # a statement that aggregates gives one
        return row

    async def _copy_into(self, table: str) -> None:
        self._passed = _Passed()
        await self._connection.copy_to_table(table, source=self._copy_text(), columns=COLUMNS)
        if (instant(self._passed.first), instant(self._passed.last)) != (self._extent.first, self._extent.last):
            raise CsvError(self._file.name, None, "was changed while it was read: import it again")

    async def _copy_text(self) -> AsyncIterator[bytes]:
        reader = reader_of(self._file, self._content)
        done = 0
        for block in self._file.blocks():
            candles = reader.read(block)
            if self._is_within(candles):
                yield self._pass(candles)
            done += len(block)
            self._told(done)
            await asyncio.sleep(0)  # the process may have other things to do
        last = reader.finish()
        if last is not None and self._is_within(last):
            yield self._pass(last)
        self._passed.rows = reader.rows

    def _is_within(self, candles: Candles) -> bool:
        """Whether there is anything to write.

        What lies past the last line's time means that a line further on goes back in time. It may have no
        partition, and is not written, so that the error is the reader's, with the number of that line.
        """
        return bool(candles.times) and instant(candles.times[-1]) <= self._extent.last

    def _pass(self, candles: Candles) -> bytes:
        self._passed.add(candles.times)
        return copy_text(self._symbol, candles)

    async def _note(self, first: datetime, last: datetime, new: int, stale: str) -> None:
        symbol = self._symbol
        await note_candles(self._connection, {symbol: (first, last)}, {symbol: new}, {symbol: stale})

    async def _cover(self) -> None:
        """Extend the coverage by what the file proves: from its first minute to its last.

        A file of trades may have been cut off within its last minute, which is therefore not proven.
        """
        end = self._extent.last if self._content.interval_minutes is None else self._extent.end
        if self._extent.first < end:
            await self._connection.execute(_COVER, self._symbol, self._extent.first, end)


def copy_text(symbol: str, candles: Candles) -> bytes:
    """Candles in COPY's text format, with the columns of :data:`COLUMNS`."""
    c = candles
    stamps = [_day(time // _DAY_S) + _CLOCK[time % _DAY_S // _MINUTE_S] for time in c.times]
    rows = zip(
        stamps, c.opens, c.highs, c.lows, c.closes, c.volumes, c.quote_volumes, c.trade_counts, c.vwaps, strict=True
    )
    lines = [
        f"{symbol}\t{stamp}\t1\t{open_}\t{high}\t{low}\t{close}\t{volume}\t{quote_volume}\t{count}\t{vwap}\tcsv\n"
        for stamp, open_, high, low, close, volume, quote_volume, count, vwap in rows
    ]
    return "".join(lines).encode()


@lru_cache(maxsize=16)
def _day(number: int) -> str:
    return (_EPOCH_DAY + timedelta(days=number)).isoformat()


_TAKE_TURN = "SELECT pg_advisory_xact_lock(hashtext('kraken_history.csv_import'), hashtext($1))"

_ANY_CANDLE = """
    SELECT EXISTS (
        SELECT FROM candles
        WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $2 AND timestamp < $3
    )
"""

_NAMES = ", ".join(COLUMNS)
_MAKE_STAGE = f"""
    CREATE TEMPORARY TABLE imported_candles ON COMMIT DROP AS
    SELECT {_NAMES} FROM candles WITH NO DATA
"""  # noqa: S608 — only constants of this module are put in

_CHANGED = """count(*) AS changed, min(m.timestamp) AS first, max(m.timestamp) AS last,
           (SELECT range_agg(tstzrange(hour, hour + interval '1 hour'))::text
            FROM (SELECT DISTINCT date_bin('1 hour', timestamp, '2000-01-03 00:00:00+00') AS hour FROM merged) AS h
           ) AS hours"""

_MAKE_SECOND_STAGE = "CREATE TEMPORARY TABLE fuller_candles (LIKE imported_candles) ON COMMIT DROP"

# One statement, so that what is new and what is fuller are told apart by one look at the table.
_ADD_NEW = f"""
    WITH wanted AS MATERIALIZED (
        SELECT o.*, c.timestamp IS NULL AS is_new
        FROM imported_candles o LEFT JOIN (
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

_STAGES = ("imported_candles", "fuller_candles")
_SPAN = {
    table: f"SELECT min(timestamp) AS first, max(timestamp) AS last FROM {table}"  # noqa: S608 — one of two constants
    for table in _STAGES
}
_MERGE = {
    table: f"""
    {merging_candles(f"SELECT * FROM {table}", "c.timestamp BETWEEN $1 AND $2", "'csv'")}
    SELECT count(*) FILTER (WHERE b.source IS NULL) AS new, {_CHANGED}
    FROM merged m LEFT JOIN before b USING (symbol, timestamp)
"""  # noqa: S608 — only constants of this module are put in
    for table in _STAGES
}

_COVER = """
    INSERT INTO data_sync_status AS s (symbol, data_type, time_ranges)
    VALUES ($1, 'candles_1m', tstzmultirange(tstzrange($2, $3)))
    ON CONFLICT (symbol, data_type) DO UPDATE SET
        time_ranges = s.time_ranges + excluded.time_ranges, last_sync_at = now()
    WHERE NOT s.time_ranges @> excluded.time_ranges
"""
