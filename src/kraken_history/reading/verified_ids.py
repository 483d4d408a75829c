"""Compares the stored trade ids with the ledger, over all windows of a verification.

A window shows which of its rows have no id in the ledger, or an id that occurs twice. An id in the ledger that has no
row in any window is found at the end: rows never change their time, so a row that was there at the beginning is seen in
its window. Ids whose rows retention dropped are not missing; :meth:`SeenIds._unexplained` tells them apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from kraken_history.database.connections import Connection
from kraken_history.intervals import Span
from kraken_history.ledger import IdRanges
from kraken_history.reading.differences import Difference, Differences, What, instant_text
from kraken_history.records import MINUTE, TimeRange

_DAY = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)
_MOST_RUNS = 100  # ranges of lost ids that are reported per symbol; further ones are counted
_MOST_TIMED = 10_000  # ranges of lost ids per symbol whose time is determined
_TOP = 2**63 - 1


class IdRun(Struct, frozen=True):
    """Consecutive ids of a window, ``[low, high)``.

    Attributes:
        rows: Number of rows, more than ids if one is repeated.
        repeated: The ids with several rows in this window.
        outside: The ids that are not in the ledger.
        first, last: Times of the first and the last row; if ids are repeated or outside, of theirs.
        oldest, newest: The times that the ledger has for the symbol.
        dropped_until: The end of the time whose trades retention dropped.
    """

    symbol: str
    low: int
    high: int
    rows: int
    repeated: IdRanges
    outside: IdRanges
    first: datetime
    last: datetime
    oldest: datetime | None
    newest: datetime | None
    dropped_until: datetime | None

    @property
    def is_beyond(self) -> bool:
        """True if a row is older or newer than the ledger says."""
        if self.oldest is None or self.newest is None:
            return True
        return self.first < self.oldest or self.last > self.newest


async def read_runs(connection: Connection, window: TimeRange, symbols: Sequence[str] | None) -> list[IdRun]:
    """The ids that are stored in a window."""
    runs: list[IdRun] = []
    for row in await connection.fetch(_RUNS, window.start, window.end, symbols):
        outside, repeated, first, last = _ids(row["outside"]), IdRanges(), row["first"], row["last"]
        if row["rows"] > row["high"] - row["low"]:
            repeated = _ids(await connection.fetchval(_REPEATED, row["symbol"], window.start, window.end))
        if strange := outside | repeated:
            times = await connection.fetchrow(_TIMES, row["symbol"], window.start, window.end, strange.as_multirange())
            assert times is not None  # it is an aggregate
            first, last = times["first"] or first, times["last"] or last
        runs.append(
            IdRun(
                row["symbol"], row["low"], row["high"], row["rows"], repeated, outside, first, last,
                row["oldest"], row["newest"], row["dropped_until"],
            )
        )  # fmt: skip
    return runs


class Held(Struct, frozen=True):
    """The ledger of a symbol at the beginning.

    Attributes:
        ids: The ids that must have a row in the range.
        is_dropped: Retention dropped trades of its time.
    """

    ids: IdRanges
    is_dropped: bool


class SeenIds:
    """The ids of all windows so far, by symbol.

    Attributes:
        rows: Trades in these windows.
        lost, strays, repeated: By symbol, the ids of the differences.
        lost_times: By symbol and first id, the time of each range of lost ids, of the first 10,000 of each symbol.
    """

    def __init__(self, found: Differences) -> None:
        self._found = found
        self._held: dict[str, Held] = {}
        self._seen: dict[str, IdRanges] = {}
        self._short: dict[str, IdRanges] = {}  # the ids of candles that have more trades than are stored
        self._kept_from: dict[str, int] = {}  # the lowest id that is certainly younger than all dropped ones
        self._dropped_until: datetime | None = None
        self.rows = 0
        self.lost: dict[str, IdRanges] = {}
        self.lost_times: Mapping[tuple[str, int], Span] = {}
        self.strays: dict[str, IdRanges] = {}
        self.repeated: dict[str, IdRanges] = {}

    @property
    def symbols(self) -> set[str]:
        """Symbols with rows, or in the ledger."""
        return self._held.keys() | self._seen.keys()

    async def begin(
        self, connection: Connection, symbols: Sequence[str] | None, start: datetime | None, end: datetime | None
    ) -> None:
        """Read the ledger.

        Args:
            start, end: The range; None for the beginning and the end.
        """
        for row in await connection.fetch(_LEDGER, symbols):
            low = None if start is None else await connection.fetchval(_LAST_ID_BEFORE, row["symbol"], start)
            high = None if end is None else await connection.fetchval(_FIRST_ID_FROM, row["symbol"], end)
            within = IdRanges([(0 if low is None else low + 1, _TOP if high is None else high)])
            self._held[row["symbol"]] = Held(_ids(row["ids"]) & within, row["is_dropped"])

    def add(self, window: TimeRange, runs: Iterable[IdRun]) -> None:
        """Take the runs of ids of a window."""
        by_symbol: dict[str, list[IdRun]] = {}
        for run in runs:
            by_symbol.setdefault(run.symbol, []).append(run)
        for symbol, its_runs in by_symbol.items():
            self._note_kept(symbol, window, its_runs)
            seen = self._seen.get(symbol, IdRanges())
            for run in its_runs:
                self._note_strange(run, seen)
            self._seen[symbol] = seen | IdRanges((run.low, run.high) for run in its_runs)
            self.rows += sum(run.rows for run in its_runs)

    def _note_strange(self, run: IdRun, seen: IdRanges) -> None:
        if again := run.repeated | (IdRanges([(run.low, run.high)]) & seen):
            self._note(self.repeated, "trade_repeated", run, again, "several rows")
        if run.outside:
            self._note(self.strays, "trade_not_in_ledger", run, run.outside, "stored, and not in the ledger")
        elif run.is_beyond:
            ledger = f"{instant_text(run.oldest)} to {instant_text(run.newest)}"
            self._add(run, "trade_extent", f"trades are older or newer than the ledger says: {ledger}")

    def _note_kept(self, symbol: str, window: TimeRange, runs: Sequence[IdRun]) -> None:
        if runs[0].dropped_until != self._dropped_until:
            self._dropped_until = runs[0].dropped_until
            self._kept_from.clear()
        # A day later, because ids follow their times almost, but not exactly.
        if self._dropped_until is not None and window.start >= self._dropped_until + _DAY:
            self._kept_from.setdefault(symbol, min(run.low for run in runs))

    def note_short(self, symbol: str, first_id: int | None, last_id: int | None) -> None:
        """Take a candle that has more trades than are stored."""
        if first_id is not None and last_id is not None:
            self._short[symbol] = self._short.get(symbol, IdRanges()) | IdRanges([(first_id, last_id + 1)])

    async def find_lost(self, connection: Connection) -> dict[str, IdRanges]:
        """By symbol, the ids that are in the ledger and have no row in any window."""
        lost = {}
        for symbol, held in self._held.items():
            if suspects := self._unexplained(symbol, held):
                # A repair may have made them missing meanwhile.
                lost[symbol] = suspects & _ids(await connection.fetchval(_HELD, symbol))
        return {symbol: ids for symbol, ids in lost.items() if ids}

    def note_lost(self, lost: Mapping[str, IdRanges], times: Mapping[tuple[str, int], Span]) -> None:
        """Report lost ids, with the times of :func:`read_times`."""
        self.lost_times = times
        for symbol, ids in lost.items():
            self.lost[symbol] = ids
            ranges = list(ids)
            more = f", and {len(ranges) - _MOST_RUNS:,} further ranges of ids" if len(ranges) > _MOST_RUNS else ""
            for at, (low, high) in enumerate(ranges[:_MOST_RUNS], 1):
                detail = f"{_ids_text(IdRanges([(low, high)]))} in the ledger, and not stored"
                detail += more if at == _MOST_RUNS else ""
                self._found.append(Difference(symbol, "trade_missing", *times[symbol, low], detail))

    def _unexplained(self, symbol: str, held: Held) -> IdRanges:
        """The ids without a row that retention cannot have dropped.

        If it dropped trades of the symbol, these are the ids that are younger than all dropped ones, and those of
        candles which lack trades although their minute was not dropped.
        """
        missing = held.ids - self._seen.get(symbol, IdRanges())
        if not held.is_dropped or not missing:
            return missing
        kept_from = self._kept_from.get(symbol)
        younger = IdRanges() if kept_from is None else IdRanges([(kept_from, _TOP)])
        return missing & (younger | self._short.get(symbol, IdRanges()))

    def _note(self, ids: dict[str, IdRanges], what: What, run: IdRun, these: IdRanges, words: str) -> None:
        ids[run.symbol] = ids.get(run.symbol, IdRanges()) | these
        self._add(run, what, f"{_ids_text(these)} {words}")

    def _add(self, run: IdRun, what: What, detail: str) -> None:
        self._found.append(Difference(run.symbol, what, run.first, run.last + _MICROSECOND, detail))


def _ids_text(ids: IdRanges) -> str:
    """For example ``id 7``, ``ids 7 to 9`` or ``12 ids from 7 to 90``."""
    ranges = list(ids)
    low, high, count = ranges[0][0], ranges[-1][1] - 1, len(ids)
    if count == 1:
        return f"id {low}:"
    return f"ids {low} to {high}:" if len(ranges) == 1 else f"{count:,} ids from {low} to {high}:"


async def without_rows_outside(
    connection: Connection, lost: Mapping[str, IdRanges], within: TimeRange, pieces: Sequence[TimeRange]
) -> dict[str, IdRanges]:
    """The ids of a range that have no row outside it either: an id near its ends may have its row beyond them.

    Args:
        pieces: Those of the trades. Each is read by itself, the nearest first, until every id is found.
    """
    left = dict(lost)
    for piece in sorted(pieces, key=lambda piece: max(piece.start - within.end, within.start - piece.end)):
        for symbol, ids in list(left.items()):
            stored = await connection.fetchval(_STORED, symbol, piece.start, piece.end, ids.as_multirange())
            if still := ids - _ids(stored):
                left[symbol] = still
            else:
                del left[symbol]
    return left


async def read_times(connection: Connection, lost: Mapping[str, IdRanges]) -> dict[tuple[str, int], Span]:
    """By symbol and first id: the minutes in which lost trades were made, by the candles around them."""
    return {
        (symbol, low): await _time_of(connection, symbol, low, high)
        for symbol, ids in lost.items()
        for low, high in list(ids)[:_MOST_TIMED]
    }


async def _time_of(connection: Connection, symbol: str, low: int, high: int) -> Span:
    row = await connection.fetchrow(_TIME_OF_IDS, symbol, low, high - 1)
    assert row is not None  # a symbol with lost ids has a ledger
    start, end = row["low"] or row["oldest"], row["high"] or row["newest"]
    if row["low_last_id"] is not None and row["low_last_id"] >= high - 1:
        end = start
    return start, max(start, end) + MINUTE


def _ids(multirange: object) -> IdRanges:
    assert isinstance(multirange, list | None)
    return IdRanges((each.lower, each.upper) for each in multirange or ())


_LEDGER = """
    SELECT s.symbol, held_ids(s.symbol) AS ids, coalesce(
               tstzrange(s.oldest_timestamp, s.newest_timestamp, '[]')
               && (SELECT ranges FROM dropped_ranges WHERE relation = 'trades'), false) AS is_dropped
    FROM data_sync_status s WHERE s.data_type = 'trades' AND ($1::text[] IS NULL OR s.symbol = ANY ($1))
    ORDER BY s.symbol
"""

_LAST_ID_BEFORE = """
    SELECT last_trade_id FROM candles
    WHERE symbol = $1 AND interval_minutes = 1 AND timestamp < $2 AND last_trade_id IS NOT NULL
    ORDER BY timestamp DESC LIMIT 1
"""

_FIRST_ID_FROM = """
    SELECT first_trade_id FROM candles
    WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $2 AND first_trade_id IS NOT NULL
    ORDER BY timestamp LIMIT 1
"""

# Sorted by id, so that the server's memory does not grow with the rows. Equal ids have one rank.
_RUNS = """
    WITH ranked AS (
        SELECT symbol, id, timestamp, id - dense_rank() OVER (PARTITION BY symbol ORDER BY id) AS run
        FROM trades
        WHERE timestamp >= $1 AND timestamp < $2 AND ($3::text[] IS NULL OR symbol = ANY ($3))
    ), runs AS (
        SELECT symbol, min(id) AS low, max(id) + 1 AS high, count(*) AS rows,
               min(timestamp) AS first, max(timestamp) AS last
        FROM ranked GROUP BY symbol, run
    )
    SELECT r.*, coalesce(unheld_within(r.symbol, r.low, r.high), int8multirange(int8range(r.low, r.high))) AS outside,
           s.oldest_timestamp AS oldest, s.newest_timestamp AS newest,
           (SELECT upper(ranges) FROM dropped_ranges WHERE relation = 'trades') AS dropped_until
    FROM runs r LEFT JOIN data_sync_status s ON s.symbol = r.symbol AND s.data_type = 'trades'
    ORDER BY r.symbol, r.low
"""

_REPEATED = """
    SELECT range_agg(int8range(id, id + 1)) FROM (
        SELECT id FROM trades WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3 GROUP BY id HAVING count(*) > 1
    ) AS repeated
"""

_TIMES = """
    SELECT min(timestamp) AS first, max(timestamp) AS last
    FROM trades WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3 AND id <@ $4::text::int8multirange
"""

_HELD = "SELECT held_ids($1)"

_STORED = """
    SELECT range_agg(int8range(id, id + 1)) FROM trades
    WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3 AND id <@ $4::text::int8multirange
"""

_TIME_OF_IDS = """
    SELECT low.timestamp AS low, low.last_trade_id AS low_last_id, high.timestamp AS high,
           s.oldest_timestamp AS oldest, s.newest_timestamp AS newest
    FROM data_sync_status s
    LEFT JOIN LATERAL (
        SELECT timestamp, last_trade_id FROM candles
        WHERE symbol = $1 AND first_trade_id <= $2 ORDER BY first_trade_id DESC LIMIT 1
    ) AS low ON true
    LEFT JOIN LATERAL (
        SELECT timestamp FROM candles WHERE symbol = $1 AND first_trade_id > $3 ORDER BY first_trade_id LIMIT 1
    ) AS high ON true
    WHERE s.symbol = $1 AND s.data_type = 'trades'
"""
