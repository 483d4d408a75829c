"""Which time is covered, and candles for those who have to know.

A symbol's trades are covered as :mod:`kraken_history.time_coverage` says: between the oldest and the newest that are
stored, and where Kraken was asked and had nothing else; but for the holes in their ids. A hole reaches from the
minute of the last stored trade before it to the minute of the first one after it, both included, because the candles
of both may lack trades. Nothing is claimed of the time after the newest trade until somebody has asked for it.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

import asyncpg
from msgspec import Struct

from kraken_history.errors import CoverageError, InvalidChoice, InvalidRange
from kraken_history.intervals import as_utc, bucket_end, bucket_start, closed_window, width_of
from kraken_history.postgres import Connection
from kraken_history.reading.candle_query import Span
from kraken_history.reading.candles import (
    check_limit,
    checked_symbol,
    read_latest_candles,
    read_span,
    require_symbol,
)
from kraken_history.reading.database import Database
from kraken_history.records import MINUTE, HistoricalCandle, MadeUpCandle, TimeRange, floor_minute

GapsChoice = Literal["ignore", "raise", "fill"]

CoverageKind = Literal["proven", "exchange", "quiet", "missing"]
"""What is known of some time.

``proven``: its trades are stored, and their ids prove that none is missing. ``exchange``: its candles are the
exchange's own, or of a download. ``quiet``: covered, and nobody traded. ``missing``: all else.
"""

KINDS: tuple[CoverageKind, ...] = get_args(CoverageKind)


class CoveredSpan(TimeRange, frozen=True, order=True, gc=False):
    """Time of one kind."""

    kind: CoverageKind


class Coverage(Struct, frozen=True):
    """What is known of a symbol's history between ``start`` and ``end``.

    Attributes:
        spans: In order, each beginning where the one before it ends, no two neighbours of one kind; the first begins
            at ``start``, the last ends at ``end``.
    """

    symbol: str
    start: datetime
    end: datetime
    spans: Sequence[CoveredSpan]

    @property
    def missing(self) -> list[TimeRange]:
        """What is missing, oldest first."""
        return self.of("missing")

    @property
    def is_complete(self) -> bool:
        """True if nothing is missing."""
        return all(span.kind != "missing" for span in self.spans)

    def of(self, kind: CoverageKind) -> list[TimeRange]:
        """The time of one kind, oldest first.

        Raises:
            InvalidChoice: There is no such kind.
        """
        if kind not in KINDS:
            raise InvalidChoice("kind", kind, KINDS)
        return [TimeRange(span.start, span.end) for span in self.spans if span.kind == kind]

    def duration(self, kind: CoverageKind) -> timedelta:
        """How much time is of one kind; errors as :meth:`of`."""
        return sum((each.duration for each in self.of(kind)), timedelta())


async def read_coverage(database: Database, symbol: str, start: datetime, end: datetime) -> Coverage:
    """What is known of ``[start, end)``, as of one moment.

    Raises:
        UsageError: As the checks say.
        UnknownSymbol: Nothing of this symbol is stored.
        ServiceUnavailable: The database is gone.
    """
    first, last = as_utc(start), as_utc(end)
    if first >= last:
        raise InvalidRange(start, end)
    name = checked_symbol(symbol)
    await require_symbol(database, name)
    async with (
        database.connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        spans = await _classify(connection, name, (first, last))
    return Coverage(name, first, last, spans)


async def read_candles_over_gaps(
    database: Database,
    symbol: str,
    interval: int,
    start: datetime,
    end: datetime,
    limit: int | None = None,
    *,
    gaps: GapsChoice,
) -> list[HistoricalCandle]:
    """:func:`~kraken_history.reading.candles.read_candles` where it matters what is not there.

    With ``fill`` there is a candle for every bucket from the first known close on, up to the last bucket that is
    closed by the database's clock: no more of them than the range has since then, nor than ``limit``.

    Raises:
        CoverageError: With ``raise``, part of the buckets that were asked for is missing; with ``limit``, of those up
            to the last candle that would be returned.
        InvalidChoice: ``gaps`` is neither of these.
    """
    if gaps not in ("raise", "fill"):
        raise InvalidChoice("gaps", gaps, get_args(GapsChoice))
    window = closed_window(start, end, interval)
    check_limit(limit)
    name = checked_symbol(symbol)
    if window[0] == window[1]:
        await require_symbol(database, name)
        return []
    if gaps == "raise":
        return await _read_or_raise(database, name, interval, window, limit)
    return await _read_filled(database, name, interval, window, limit)


async def _read_or_raise(
    database: Database, symbol: str, interval: int, window: Span, limit: int | None
) -> list[HistoricalCandle]:
    reach = window[1]
    if limit is not None:
        candles = await read_span(database, symbol, interval, window, limit)
        reach = candles[-1].timestamp + width_of(interval) if len(candles) == limit else reach
    coverage = await read_coverage(database, symbol, window[0], reach)
    if not coverage.is_complete:
        raise CoverageError(symbol, coverage.missing)
    # Read after it is known to be complete: what is stored meanwhile only adds to it.
    return await read_span(database, symbol, interval, (window[0], reach), limit)


async def _read_filled(
    database: Database, symbol: str, interval: int, window: Span, limit: int | None
) -> list[HistoricalCandle]:
    width = width_of(interval)
    start, end = window
    known = await read_latest_candles(database, symbol, interval, 1, start)
    if not known:
        known = await read_span(database, symbol, interval, window, 1)
        if not known:
            return []
        start = known[0].timestamp
    if limit is not None and limit < (end - start) // width:
        end = start + limit * width
    candles = await read_span(database, symbol, interval, (start, end))
    [row] = await database.fetch("SELECT now() AS now")
    last_closed = bucket_start(row["now"], width)
    return fill_buckets(known[0], candles, start, min(end, last_closed))


def fill_buckets(
    known: HistoricalCandle, candles: Sequence[HistoricalCandle], start: datetime, end: datetime
) -> list[HistoricalCandle]:
    """A candle for every bucket of ``[start, end)``: of ``candles``, or else made up at the close before it.

    Args:
        known: The last candle before ``start``, or the one at ``start``.
        candles: In order. Those past ``end`` are kept, with what is between them.
    """
    width = width_of(known.interval_minutes)
    filled: list[HistoricalCandle] = []
    last, due = known, start

    def fill_until(moment: datetime) -> None:
        nonlocal due
        while due < moment:
            filled.append(MadeUpCandle.after(last, due))
            due += width

    for candle in candles:
        fill_until(candle.timestamp)
        filled.append(candle)
        last, due = candle, candle.timestamp + width
    fill_until(end)
    return filled


async def _classify(connection: Connection, symbol: str, span: Span) -> list[CoveredSpan]:
    holes = await _hole_spans(connection, symbol, span)
    spans = await _spans(connection, symbol, span, holes, [])
    dropped = await _dropped_days(connection, symbol, spans)
    return await _spans(connection, symbol, span, holes, dropped) if dropped else spans


async def _spans(
    connection: Connection, symbol: str, span: Span, holes: Sequence[Span], dropped: Sequence[datetime]
) -> list[CoveredSpan]:
    start, end = span
    rows: list[Any] = await connection.fetch(
        _SPANS,
        symbol,
        start,
        end,
        bucket_start(start, MINUTE),
        [low for low, _ in holes],
        [high for _, high in holes],
        dropped,
    )
    return _with_missing(rows, start, end)


def _with_missing(
    known: Sequence[tuple[datetime, datetime, CoverageKind]], start: datetime, end: datetime
) -> list[CoveredSpan]:
    """The spans that are known, in their order, and what is missing between them."""
    spans: list[CoveredSpan] = []
    reached = start
    for low, high, kind in known:
        if reached < low:
            spans.append(CoveredSpan(reached, low, "missing"))
        spans.append(CoveredSpan(low, high, kind))
        reached = high
    if reached < end:
        spans.append(CoveredSpan(reached, end, "missing"))
    return spans


# A minute that is cut by a bound of what is covered is looked at in parts. Of a candle built from trades only the
# covered part is proven: it may lack trades of the other. A candle of a minute that is not over yet is not whole.
_SPANS = """
    WITH covered AS (
        SELECT coalesce((
                   SELECT time_ranges + CASE WHEN newest_timestamp IS NULL THEN '{}'
                          ELSE tstzmultirange(tstzrange(oldest_timestamp, newest_timestamp)) END
                   FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'
               ), '{}') - coalesce((
                   SELECT range_agg(tstzrange(low, high))
                   FROM unnest($5::timestamptz[], $6::timestamptz[]) AS hole (low, high)
               ), '{}') AS by_trades,
               coalesce((
                   SELECT time_ranges FROM data_sync_status WHERE symbol = $1 AND data_type = 'candles_1m'
               ), '{}') AS by_candles,
               coalesce((
                   SELECT range_agg(tstzrange(day, day + interval '24 hours')) FROM unnest($7::timestamptz[]) AS day
               ), '{}') AS dropped
    ), candle AS (
        SELECT coalesce(range_agg(minute) FILTER (WHERE is_built), '{}') AS built,
               coalesce(range_agg(minute) FILTER (WHERE NOT is_built), '{}') AS given,
               coalesce(range_agg(minute) FILTER (WHERE NOT is_built AND upper(minute) <= now()), '{}') AS whole
        FROM (
            SELECT tstzrange(timestamp, timestamp + interval '1 minute') AS minute, source = 'trades' AS is_built
            FROM candles
            WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $4 AND timestamp < $3
        ) AS c
    ), kinds AS MATERIALIZED (
        SELECT asked * by_trades * built AS proven, asked * whole AS exchange,
               asked * (by_trades + by_candles) - built - given - dropped AS quiet
        FROM covered, candle, tstzmultirange(tstzrange($2, $3)) AS asked
    )
    SELECT lower(span) AS start, upper(span) AS "end", kind
    FROM kinds, LATERAL (
        SELECT unnest(proven) AS span, 'proven' AS kind
        UNION ALL SELECT unnest(exchange), 'exchange'
        UNION ALL SELECT unnest(quiet), 'quiet'
    ) AS s ORDER BY 1
"""


async def _dropped_days(connection: Connection, symbol: str, spans: Sequence[CoveredSpan]) -> list[datetime]:
    """Days whose one-minute candles were dropped, of those that seem quiet: their daily candle tells.

    Candles are dropped by whole days at least, and daily candles are kept for ever.
    """
    days = _quiet_days(spans)
    if not days:
        return []
    rows = await connection.fetch(_DROPPED_DAYS, symbol, days, min(days), max(days))
    return [row["timestamp"] for row in rows]


def _quiet_days(spans: Sequence[CoveredSpan]) -> set[datetime]:
    """The days that are partly quiet, as far as can be seen without a candle in them."""
    found: set[datetime] = set()
    kinds = [None, *(span.kind for span in spans), None]
    for before, span, after in zip(kinds, spans, kinds[2:], strict=False):
        opens, closes = before not in _WITH_CANDLES, after not in _WITH_CANDLES
        if span.kind == "quiet" and (opens or closes or span.duration >= _DAY):
            day = (bucket_start if opens else bucket_end)(span.start, _DAY)
            end = (bucket_end if closes else bucket_start)(span.end, _DAY)
            while day < end:
                found.add(day)
                day += _DAY
    return found


_WITH_CANDLES = ("proven", "exchange")

_DROPPED_DAYS = """
    SELECT d.timestamp FROM candles_1d d
    WHERE d.symbol = $1 AND d.timestamp >= $3 AND d.timestamp <= $4 AND d.timestamp = ANY ($2)
      AND NOT EXISTS (
          SELECT FROM candles c
          WHERE c.symbol = $1 AND c.interval_minutes = 1
            AND c.timestamp >= d.timestamp AND c.timestamp < d.timestamp + interval '24 hours'
      )
"""


class _Hole(Struct, frozen=True):
    """Ids that are missing, and what the candles that are built from trades tell of their time.

    Attributes:
        before, after: The stored ids around it.
        low, low_last_id: The last candle that begins at or before ``before``, and the last id of that.
        high, high_first_id: The first candle that begins at or after ``after``, and the first id of that.
    """

    before: int
    after: int
    low: datetime | None
    low_last_id: int | None
    high: datetime | None
    high_first_id: int | None

    @property
    def start(self) -> datetime | None:
        """The minute of the trade before, if that candle holds it."""
        return self.low if self.low_last_id is not None and self.low_last_id >= self.before else None

    @property
    def end(self) -> datetime | None:
        """The end of the minute of the trade after, if one of the candles holds it."""
        if self.low is not None and self.low_last_id is not None and self.low_last_id >= self.after:
            return self.low + MINUTE
        return self.high + MINUTE if self.high is not None and self.high_first_id == self.after else None


async def _hole_spans(connection: Connection, symbol: str, span: Span) -> list[Span]:
    """The time of each hole in the ids that may touch ``span``, in whole minutes."""
    extent = await connection.fetchrow(_EXTENT_OF_HOLES, symbol)
    if extent is None:
        return []
    oldest, newest = floor_minute(extent["oldest"]), floor_minute(extent["newest"]) + MINUTE
    if newest <= span[0] or oldest >= span[1]:
        return []
    rows = await connection.fetch(
        _HOLES, symbol, bucket_start(span[0], MINUTE), bucket_end(span[1], MINUTE), oldest, newest
    )
    holes = [_Hole(*row) for row in rows]
    unclear = [hole for hole in holes if hole.start is None or hole.end is None]
    found = await _find_trades(connection, symbol, unclear, oldest, newest)
    return [
        (
            hole.start or found.get(hole.before) or (oldest if hole.low is None else hole.low + MINUTE),
            hole.end or _minute_after(found.get(hole.after)) or hole.high or newest,
        )
        for hole in holes
    ]


def _minute_after(minute: datetime | None) -> datetime | None:
    return None if minute is None else minute + MINUTE


_EXTENT_OF_HOLES = """
    SELECT oldest_timestamp AS oldest, newest_timestamp AS newest FROM data_sync_status
    WHERE symbol = $1 AND data_type = 'trades' AND NOT isempty(id_ranges)
      AND NOT isempty(ledger_holes(id_ranges, absent_id_ranges))
"""

# The ids of the candles of the time in question, and of one candle on each side, are searched in memory: their index
# does not reach into compressed chunks.
_HOLES = """
    WITH built AS MATERIALIZED (
        (SELECT timestamp, first_trade_id, last_trade_id FROM candles
         WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $4 AND timestamp < $2
           AND first_trade_id IS NOT NULL ORDER BY timestamp DESC LIMIT 1)
        UNION ALL
        SELECT timestamp, first_trade_id, last_trade_id FROM candles
        WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $2 AND timestamp < $3
          AND first_trade_id IS NOT NULL
        UNION ALL
        (SELECT timestamp, first_trade_id, last_trade_id FROM candles
         WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $3 AND timestamp < $5
           AND first_trade_id IS NOT NULL ORDER BY timestamp LIMIT 1)
    ), columns AS MATERIALIZED (
        SELECT coalesce(array_agg(timestamp ORDER BY first_trade_id), '{}') AS times,
               coalesce(array_agg(first_trade_id ORDER BY first_trade_id), '{}') AS firsts,
               coalesce(array_agg(last_trade_id ORDER BY first_trade_id), '{}') AS lasts,
               min(first_trade_id) FILTER (WHERE timestamp < $2) AS lowest,
               min(first_trade_id) FILTER (WHERE timestamp >= $3) AS highest
        FROM built
    ), gaps AS (
        SELECT lag(upper(held)) OVER (ORDER BY held) - 1 AS before, lower(held) AS after, absent_id_ranges AS absent
        FROM data_sync_status, unnest(id_ranges) AS held WHERE symbol = $1 AND data_type = 'trades'
    ), holes AS MATERIALIZED (
        SELECT before, after, width_bucket(before, (SELECT firsts FROM columns)) AS low,
               width_bucket(after - 1, (SELECT firsts FROM columns)) + 1 AS high
        FROM gaps
        WHERE before IS NOT NULL AND NOT absent @> int8range(before + 1, after)
          AND after > coalesce((SELECT lowest FROM columns), -1)
          AND before < coalesce((SELECT highest FROM columns), 9223372036854775807)
    )
    SELECT before, after, (SELECT times FROM columns)[low], (SELECT lasts FROM columns)[low],
           (SELECT times FROM columns)[high], (SELECT firsts FROM columns)[high]
    FROM holes
"""


async def _find_trades(
    connection: Connection, symbol: str, holes: Sequence[_Hole], oldest: datetime, newest: datetime
) -> dict[int, datetime]:
    """By id: the minutes of the trades around holes, as far as they are stored.

    Looked for where no candle tells their minutes: because the exchange's own stand there.
    """
    if not holes:
        return {}
    lows = [oldest if hole.low is None else hole.low for hole in holes]
    highs = [newest if hole.high is None else hole.high + MINUTE for hole in holes]
    rows: list[asyncpg.Record] = await connection.fetch(
        _TRADES_AROUND,
        symbol,
        [hole.before for hole in holes],
        [hole.after for hole in holes],
        lows,
        highs,
        min(lows),
        max(highs),
    )
    return {row["id"]: floor_minute(row["timestamp"]) for row in rows}


# Each is mostly at its own end of the time in which it is looked for. The outermost bounds are given as values, so
# that the planner opens the partitions between them only.
_TRADES_AROUND = """
    SELECT t.id, t.timestamp
    FROM unnest($2::bigint[], $3::bigint[], $4::timestamptz[], $5::timestamptz[]) AS h (before, after, low, high),
    LATERAL (
        (SELECT id, timestamp FROM trades
         WHERE symbol = $1 AND id = before AND timestamp >= low AND timestamp < high
           AND timestamp >= $6 AND timestamp < $7 ORDER BY timestamp LIMIT 1)
        UNION ALL
        (SELECT id, timestamp FROM trades
         WHERE symbol = $1 AND id = after AND timestamp >= low AND timestamp < high
           AND timestamp >= $6 AND timestamp < $7 ORDER BY timestamp DESC LIMIT 1)
    ) AS t
"""

_DAY = timedelta(days=1)
