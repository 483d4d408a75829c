"""Recounts trades against the ledger, candles against their trades, and longer candles against shorter ones.

Longer candles that have no minutes below them are checked by :mod:`~kraken_history.reading.verified_given`.

The history is read in windows, each in one snapshot: a day of trades and minutes, then four weeks of longer candles.
Every write changes trades, ledger and candles in one transaction, so a snapshot shows either all of it or nothing, and
a write during the verification is never a difference. The comparisons are made in the database; only what differs is
sent. :mod:`~kraken_history.reading.verified_ids` follows the ids through all windows.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Literal, TypeVar

import asyncpg
from msgspec import Struct

from kraken_history.arguments import checked_list
from kraken_history.completeness.minute_maps import find_wrong_maps
from kraken_history.database.connections import Connection, write_again
from kraken_history.intervals import Span, as_utc, bucket_end, bucket_start, checked_range
from kraken_history.kraken.pairs import checked_name, find_stored
from kraken_history.ledger import IdRanges
from kraken_history.reading.database import Database
from kraken_history.reading.differences import Difference, Differences, candle_detail, instant_text
from kraken_history.reading.names import read_symbols
from kraken_history.reading.verified_given import EXTENT, Given, verify_given
from kraken_history.reading.verified_ids import IdRun, SeenIds, read_runs, read_times, without_rows_outside
from kraken_history.reading.verified_ledger import wrong_ledgers
from kraken_history.records import MINUTE, TimeRange
from kraken_history.storing.candle_checks import wrong_longer, wrong_minutes
from kraken_history.storing.longer_intervals import AGGREGATES, Aggregate
from kraken_history.storing.partitions import find_pieces

T = TypeVar("T")

_DAY = timedelta(days=1)
_WEEK = timedelta(weeks=1)
_MICROSECOND = timedelta(microseconds=1)
_LONGER_WINDOW = 4 * _WEEK  # bounds of every interval, because windows begin on a Monday


class Step(Struct, frozen=True):
    """A window that was verified.

    Attributes:
        of: ``trades`` for trades and minutes, ``longer`` for longer candles.
        done, total: Number of windows of this kind.
        rows: Rows verified so far.
    """

    of: Literal["trades", "longer"]
    window: TimeRange
    done: int
    total: int
    rows: int


OnStep = Callable[[Step], object]


class Verification(Struct, frozen=True):
    """The outcome.

    Attributes:
        window: The range that was verified; None if nothing is stored in it.
        symbols: Symbols with rows in it, or in the ledger.
        trades, candles: Rows that were verified.
        longer: By view, the stored candles that were verified.
        given: Stored candles of longer intervals without minutes below them.
        differences: By symbol and time; empty if everything agrees.
        lost, strays, repeated: By symbol, the ids of the differences ``trade_missing``, ``trade_not_in_ledger`` and
            ``trade_repeated``.
        lost_times: By symbol and first id, the time of a range of lost ids; of 10,000 ranges per symbol at most.
        wrong_longer: By view and symbol, the time of the longer candles that differ.
    """

    window: TimeRange | None
    symbols: Sequence[str]
    trades: int
    candles: int
    longer: Mapping[str, int]
    given: int
    differences: Sequence[Difference]
    lost: Mapping[str, IdRanges]
    strays: Mapping[str, IdRanges]
    repeated: Mapping[str, IdRanges]
    lost_times: Mapping[tuple[str, int], Span]
    wrong_longer: Mapping[tuple[str, str], Sequence[TimeRange]]

    @property
    def is_right(self) -> bool:
        """True if nothing differs."""
        return not self.differences


async def verify(
    connection: Connection,
    symbols: Sequence[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    on_step: OnStep = lambda _: None,
) -> Verification:
    """Compare what is stored between ``start`` and ``end`` with what it was made from.

    Memory use does not grow with the range. It needs no right but to read, and works on a replica.

    Args:
        symbols: By their stored names; None for all.
        start, end: None for the beginning and the end of what is stored. They are widened to whole minutes. A longer
            candle is verified if all of it is in the range.

    Raises:
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver raises them.
    """
    verifier = _Verifier(connection, symbols, on_step)
    return await verifier.run(start, end)


async def read_verification(
    database: Database, names: Sequence[str] | None, start: datetime | None, end: datetime | None
) -> Verification:
    """:func:`verify`, with symbols under any of their names.

    Raises:
        UnknownSymbol: The database holds nothing of a symbol.
        InvalidNumber: ``names`` is not a list, or is empty.
        InvalidTime: A time is naive.
        InvalidRange: The range is empty or reversed.
    """
    low = None if start is None else as_utc(start)
    high = None if end is None else as_utc(end)
    if low is not None and high is not None:
        checked_range(low, high)
    wanted = None if names is None else checked_list("symbols", names, checked_name)
    stored = [] if wanted is None else await read_symbols(database)
    symbols = None if wanted is None else sorted({find_stored(name, stored) for name in wanted})
    async with database.connection() as connection:
        return await verify(connection, symbols, low, high)


async def verify_longer(
    connection: Connection,
    symbols: Sequence[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    on_step: OnStep = lambda _: None,
) -> Verification:
    """:func:`verify`, of the longer candles alone."""
    verifier = _Verifier(connection, symbols, on_step)
    return await verifier.run(start, end, only_longer=True)


class _Day(Struct, frozen=True):
    """What one snapshot shows of a day."""

    runs: Sequence[IdRun]
    candles: Sequence[asyncpg.Record]
    wrong: Sequence[asyncpg.Record]


class _Verifier:
    def __init__(self, connection: Connection, symbols: Sequence[str] | None, on_step: OnStep) -> None:
        self._connection = connection
        self._symbols = None if symbols is None else list(symbols)
        self._parameter = None if symbols is None else "$3"
        self._on_step = on_step
        self._found = Differences()
        self._ids = SeenIds(self._found)
        self._candles: dict[str, int] = {}
        self._pieces: dict[str, list[TimeRange]] = {}
        self._longer = {aggregate.view: 0 for aggregate in AGGREGATES}
        self._wrong_longer: dict[tuple[str, str], list[TimeRange]] = {}
        self._given = Given(0, ())

    async def run(self, start: datetime | None, end: datetime | None, *, only_longer: bool = False) -> Verification:
        low = None if start is None else bucket_start(start, MINUTE)
        high = None if end is None else bucket_end(end, MINUTE)
        if not only_longer:  # before the extent: the rows of all these ids are then within it
            await self._in_a_snapshot(partial(self._ids.begin, self._connection, self._symbols, low, high))
        within = await self._extent(low, high)
        if within is not None:
            if not only_longer:
                await self._verify_minutes(within)
                await self._verify_maps(
                    bucket_start(within.start, _DAY) if start is None else bucket_end(within.start, _DAY),
                    bucket_end(within.end, _DAY) if end is None else bucket_start(within.end, _DAY),
                )
                await self._verify_lost(within, is_whole=start is None and end is None)
                await self._verify_ledgers(is_whole=start is None and end is None)
                await self._verify_given(within, is_whole=start is None and end is None)
            # Of everything, the candles of the first and the last bucket too; else only those wholly in the range.
            first = bucket_start(within.start, _WEEK) if start is None else within.start
            last = bucket_end(within.end, _WEEK) if end is None else within.end
            await self._verify_longer(TimeRange(first, last))
        return self._outcome(within)

    async def _verify_lost(self, within: TimeRange, *, is_whole: bool) -> None:
        lost = await self._in_a_snapshot(partial(self._ids.find_lost, self._connection))
        if not is_whole:
            lost = await without_rows_outside(self._connection, lost, within, self._pieces["trades"])
        self._ids.note_lost(lost, await self._in_a_snapshot(partial(read_times, self._connection, lost)))

    def _outcome(self, within: TimeRange | None) -> Verification:
        return Verification(
            within,
            self._all_symbols,
            self._ids.rows,
            sum(self._candles.values()),
            self._longer,
            self._given.count,
            self._found.sorted(),
            self._ids.lost,
            self._ids.strays,
            self._ids.repeated,
            self._ids.lost_times,
            self._wrong_longer,
        )

    @property
    def _all_symbols(self) -> list[str]:
        return sorted({*(self._symbols or ()), *self._ids.symbols, *self._candles, *self._given.symbols})

    async def _in_a_snapshot(self, read: Callable[[], Awaitable[T]]) -> T:
        """Read in one snapshot. A replica that must give it up, to replay a change, is asked again."""

        async def read_once() -> T:
            async with self._connection.transaction(isolation="repeatable_read", readonly=True):
                # A generic plan would lock every partition.
                await self._connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
                return await read()

        return await write_again(read_once)

    async def _extent(self, start: datetime | None, end: datetime | None) -> TimeRange | None:
        """The range that holds everything, or what was asked of it, in whole minutes."""
        extents: list[tuple[datetime | None, datetime | None]] = []
        for query in (_LEDGER_EXTENT, EXTENT):
            row = await self._connection.fetchrow(query)
            assert row is not None  # it is an aggregate
            extents.append((row[0], row[1]))
        extents += [await self._extent_of(table) for table in ("trades", "candles")]
        oldest = [low for low, _ in extents if low is not None]
        newest = [high for _, high in extents if high is not None]
        if not oldest or not newest:
            return None
        first, last = min(oldest), max(newest) + _MICROSECOND
        first = bucket_start(first if start is None else max(start, first), MINUTE)
        last = bucket_end(last if end is None else min(end, last), MINUTE)
        return TimeRange(first, last) if first < last else None

    async def _extent_of(self, table: str) -> tuple[datetime | None, datetime | None]:
        """The times of the oldest and the newest row, read piece by piece: see :func:`find_pieces`."""
        pieces = self._pieces[table] = await find_pieces(self._connection, table)
        found: list[datetime | None] = []
        for query, order in ((_OLDEST, pieces), (_NEWEST, pieces[::-1])):
            moment: datetime | None = None
            for piece in order:
                moment = await self._connection.fetchval(query.format(table=table), piece.start, piece.end)
                if moment is not None:
                    break
            found.append(moment)
        return found[0], found[1]

    def _windows(self, within: TimeRange) -> list[TimeRange]:
        """The parts of a range that may have rows: the days of trades, and the stretches that have candles only."""
        days = set(_days_of(self._pieces["trades"], within))
        windows = [TimeRange(day, day + _DAY) for day in days]
        for piece in self._pieces["candles"]:
            alone = [day for day in _days_of([piece], within) if day not in days]
            for day in alone:
                joins = windows and windows[-1].end == day and day - _DAY in alone
                windows.append(TimeRange(windows.pop().start if joins else day, day + _DAY))
        return [TimeRange(max(each.start, within.start), min(each.end, within.end)) for each in sorted(windows)]

    async def _verify_minutes(self, within: TimeRange) -> None:
        windows = self._windows(within)
        for at, window in enumerate(windows, 1):
            self._note_day(window, await self._in_a_snapshot(partial(self._read_day, window)))
            self._on_step(Step("trades", window, at, len(windows), self._ids.rows))

    async def _read_day(self, window: TimeRange) -> _Day:
        runs = await read_runs(self._connection, window, self._symbols)
        is_each_once = not any(run.repeated for run in runs)
        return _Day(
            runs,
            await self._connection.fetch(_CANDLES, window.start, window.end, self._symbols),
            await self._connection.fetch(
                wrong_minutes(self._parameter, is_each_once=is_each_once), *self._arguments(window)
            ),
        )

    def _note_day(self, window: TimeRange, day: _Day) -> None:
        self._ids.add(window, day.runs)
        for row in day.candles:
            self._candles[row["symbol"]] = self._candles.get(row["symbol"], 0) + row["count"]
            if row["outside"]:
                ledger = f"{instant_text(row['oldest'])} to {instant_text(row['newest'])}"
                detail = f"{row['outside']:,} candle(s) older or newer than the ledger says: {ledger}"
                self._found.append(
                    Difference(row["symbol"], "candle_extent", row["first"], row["last"] + MINUTE, detail)
                )
        for row in day.wrong:
            symbol, at = row["symbol"], row["timestamp"]
            detail = candle_detail(row["what"], row["found"], row["expected"])
            self._found.add(symbol, row["what"], at, at + MINUTE, detail)
            if row["lost"]:
                self._ids.note_short(symbol, row["first_trade_id"], row["last_trade_id"])

    async def _verify_maps(self, start: datetime, end: datetime) -> None:
        while start < end:
            window = start, min(start + _LONGER_WINDOW, end)
            for symbol, day in await self._in_a_snapshot(
                partial(find_wrong_maps, self._connection, self._symbols, window)
            ):
                self._found.add(symbol, "map_differs", day, day + _DAY, _MAP_DIFFERS)
            start = window[1]

    async def _verify_longer(self, within: TimeRange) -> None:
        first = bucket_start(within.start, _WEEK)
        total = -((first - within.end) // _LONGER_WINDOW)
        for at in range(total):
            window = TimeRange(first + at * _LONGER_WINDOW, first + (at + 1) * _LONGER_WINDOW)
            for aggregate, row in await self._in_a_snapshot(partial(self._read_longer, window, within)):
                self._note_longer(aggregate, row)
            self._on_step(Step("longer", window, at + 1, total, sum(self._longer.values())))

    async def _read_longer(self, window: TimeRange, within: TimeRange) -> list[tuple[Aggregate, asyncpg.Record]]:
        found = []
        for aggregate in AGGREGATES:
            low = max(window.start, bucket_end(within.start, aggregate.width))
            high = min(window.end, bucket_start(within.end, aggregate.width))
            if low < high:
                relation = await self._connection.fetchval(_RELATION, aggregate.view)
                query = wrong_longer(aggregate, relation, self._parameter)
                row = await self._connection.fetchrow(query, *self._arguments(TimeRange(low, high)))
                assert row is not None  # it is an aggregate
                found.append((aggregate, row))
        return found

    def _note_longer(self, aggregate: Aggregate, row: asyncpg.Record) -> None:
        self._longer[aggregate.view] += row["stored"]
        name = aggregate.view.removeprefix("candles_")
        columns = (row[column] for column in ("symbols", "times", "whats", "found", "expected"))
        for symbol, at, what, found, expected in zip(*columns, strict=True):
            detail = candle_detail(what, found and found.split(), expected and expected.split(), "minutes")
            end = at + aggregate.width
            self._found.add(symbol, what, at, end, f"{name}: {detail}", group=name)
            wrong = self._wrong_longer.setdefault((aggregate.view, symbol), [])
            joins = wrong and wrong[-1].end == at
            wrong.append(TimeRange(wrong.pop().start if joins else at, end))

    async def _verify_ledgers(self, *, is_whole: bool) -> None:
        counted = self._candles if is_whole else None
        read = partial(wrong_ledgers, self._connection, self._all_symbols, counted)
        for difference in await self._in_a_snapshot(read):
            self._found.append(difference)

    async def _verify_given(self, within: TimeRange, *, is_whole: bool) -> None:
        self._given = await self._in_a_snapshot(
            partial(verify_given, self._connection, self._symbols, within, self._found, is_whole=is_whole)
        )

    def _arguments(self, window: TimeRange) -> list[object]:
        return [window.start, window.end] if self._symbols is None else [window.start, window.end, self._symbols]


def _days_of(pieces: Iterable[TimeRange], within: TimeRange) -> Iterator[datetime]:
    """The days of these pieces, oldest first, as far as they touch a range."""
    for piece in pieces:
        day = bucket_start(max(piece.start, within.start), _DAY)
        while day < min(piece.end, within.end):
            yield day
            day += _DAY


_MAP_DIFFERS = "the map of the minutes with candles is not that of the stored candles"

# The ledger is asked as well: retention may have dropped the rows below longer candles.
_LEDGER_EXTENT = "SELECT min(oldest_timestamp), max(newest_timestamp) FROM data_sync_status"

_OLDEST = "SELECT min(timestamp) FROM {table} WHERE timestamp >= $1 AND timestamp < $2"
_NEWEST = "SELECT max(timestamp) FROM {table} WHERE timestamp >= $1 AND timestamp < $2"

_CANDLES = """
    SELECT c.symbol, count(*) AS count, s.oldest_timestamp AS oldest, s.newest_timestamp AS newest,
           count(*) FILTER (WHERE o.is_outside) AS outside,
           min(c.timestamp) FILTER (WHERE o.is_outside) AS first, max(c.timestamp) FILTER (WHERE o.is_outside) AS last
    FROM candles c LEFT JOIN data_sync_status s ON s.symbol = c.symbol AND s.data_type = 'candles_1m'
    CROSS JOIN LATERAL (
        SELECT coalesce(c.timestamp < s.oldest_timestamp OR c.timestamp > s.newest_timestamp, true) AS is_outside
    ) AS o
    WHERE c.interval_minutes = 1 AND c.timestamp >= $1 AND c.timestamp < $2
      AND ($3::text[] IS NULL OR c.symbol = ANY ($3))
    GROUP BY c.symbol, s.oldest_timestamp, s.newest_timestamp
"""

# The table below the view, where there is one: the view computes what is not stored yet, which would always be right.
_RELATION = """
    SELECT CASE WHEN to_regclass($1 || '_rows') IS NULL THEN $1 ELSE $1 || '_rows' END
"""
