"""Coverage of a symbol's history.

Time is covered by trades as :mod:`~kraken_history.completeness.covered_time` defines: between the oldest and the newest
stored trade, and where Kraken was asked and had no further trades, except for the holes in the ids. A hole extends
from the minute of the last stored trade before it to the minute of the first one after it, both included, because the
candles of both may lack trades. Time after the newest trade is not covered until Kraken has been asked about it. Time
whose one-minute candles were ever dropped counts as missing."""

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from itertools import chain

import msgspec
from msgspec import Struct

from kraken_history.completeness.covered_time import COVERED_BY_TRADES
from kraken_history.completeness.hole_search import DAY, find_holes_of_long
from kraken_history.completeness.hole_times import find_hole_spans
from kraken_history.completeness.longer_cover import find_longer_cover
from kraken_history.completeness.minute_maps import read_maps
from kraken_history.database.connections import Connection
from kraken_history.errors import InvalidChoice, InvalidNumber
from kraken_history.intervals import LONGEST_INTERVAL, Span, checked_interval, checked_range
from kraken_history.reading.candles import require_symbol
from kraken_history.reading.database import Database
from kraken_history.reading.kinds import KINDS, CoverageKind, Evidence, classify_days, durations, parts_of
from kraken_history.reading.live_edge import without
from kraken_history.reading.names import by_any_name
from kraken_history.records import MINUTE, RefusedTrade, TimeRange, UnreachableTrades


class CoveredSpan(TimeRange, frozen=True, order=True, gc=False):
    """A range of time of one kind."""

    kind: CoverageKind


class Coverage(Struct, frozen=True):
    """How a symbol's history between ``start`` and ``end`` is covered.

    Attributes:
        spans: In order. Each begins where the one before it ends, and has another kind. The first begins at
            ``start``, the last ends at ``end``.
        refused: Trades of this time that Kraken showed, and that are not stored, because a value of them is not valid.
            Nothing waits for them: time whose other trades are stored is ``proven``. If the time of a refused trade is
            not known, it is listed if its id lies between those of the range's trades.
        unreachable: Trades of this time that Kraken's REST API cannot show, because more than a page of them share an
            instant. Their time is ``missing``, and filling gaps does not bring them.
    """

    symbol: str
    start: datetime
    end: datetime
    spans: Sequence[CoveredSpan]
    refused: Sequence[RefusedTrade] = ()
    unreachable: Sequence[UnreachableTrades] = ()

    @property
    def missing(self) -> list[TimeRange]:
        """The missing ranges, oldest first."""
        return self.of("missing")

    @property
    def is_complete(self) -> bool:
        """True if no time is missing."""
        return all(span.kind != "missing" for span in self.spans)

    def of(self, kind: CoverageKind) -> list[TimeRange]:
        """The ranges of one kind, oldest first.

        Raises:
            InvalidChoice: ``kind`` is not a :data:`CoverageKind`.
        """
        if kind not in KINDS:
            raise InvalidChoice("kind", kind, KINDS)
        return [TimeRange(span.start, span.end) for span in self.spans if span.kind == kind]

    def duration(self, kind: CoverageKind) -> timedelta:
        """Total time of one kind; raises the errors of :meth:`of`."""
        return sum((each.duration for each in self.of(kind)), timedelta())


class CoverageBucket(TimeRange, frozen=True, order=True, gc=False):
    """How the time of one bucket is covered: the time of each kind, which adds up to the bucket's.

    The first and the last bucket are cut to the range that was asked about.
    """

    proven: timedelta
    exchange: timedelta
    quiet: timedelta
    missing: timedelta


class CoverageBuckets(Struct, frozen=True):
    """How a symbol's history between ``start`` and ``end`` is covered, by buckets of equal width.

    Attributes:
        resolution: Width of a bucket. Buckets begin at the times at which candles of that length do, in UTC.
        buckets: In order. Each begins where the one before it ends.
    """

    symbol: str
    start: datetime
    end: datetime
    resolution: timedelta
    buckets: Sequence[CoverageBucket]

    @property
    def is_complete(self) -> bool:
        """True if no time is missing."""
        return not any(bucket.missing for bucket in self.buckets)

    def duration(self, kind: CoverageKind) -> timedelta:
        """Total time of one kind.

        Raises:
            InvalidChoice: ``kind`` is not a :data:`CoverageKind`.
        """
        if kind not in KINDS:
            raise InvalidChoice("kind", kind, KINDS)
        return sum((getattr(bucket, kind) for bucket in self.buckets), timedelta())


@by_any_name
async def read_coverage(database: Database, symbol: str, start: datetime, end: datetime, interval: int = 1) -> Coverage:
    """The coverage of ``[start, end)``, as of one moment, for reads of candles of an interval.

    Raises:
        UsageError: An argument is not valid.
        UnknownSymbol: Nothing is stored for this symbol.
        ServiceUnavailable: The database is unavailable.
    """
    minutes, span = checked_interval(interval), checked_range(start, end)
    await require_symbol(database, symbol)
    async with database.connection() as connection:
        return await coverage_on(connection, symbol, span, minutes)


@by_any_name
async def read_coverage_buckets(
    database: Database, symbol: str, start: datetime, end: datetime, interval: int, resolution: timedelta
) -> CoverageBuckets:
    """As :func:`read_coverage`, by buckets of this width instead of span by span."""
    minutes, span = checked_interval(interval), checked_range(start, end)
    width = checked_resolution(resolution)
    await require_symbol(database, symbol)
    async with database.connection() as connection:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            evidence = await read_evidence(connection, symbol, span, interval=minutes)
        evidence = await only_kept(connection, evidence)
    found = durations(classify_days(evidence), width)
    buckets = [CoverageBucket(max(at, span[0]), min(at + width, span[1]), **kinds) for at, kinds in found.items()]
    return CoverageBuckets(symbol, *span, width, buckets)


async def _read_refused(connection: Connection, symbol: str, span: Span) -> list[RefusedTrade]:
    # Checked first, because planning the query takes long where there are hundreds of partitions.
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM refused_trades WHERE symbol = $1)", symbol):
        return []
    return [RefusedTrade(*row) for row in await connection.fetch(_REFUSED, symbol, *span)]


def checked_resolution(resolution: timedelta) -> timedelta:
    """The width of a bucket.

    Raises:
        InvalidNumber: It is not a whole number of minutes, from one minute to a year.
    """
    if not isinstance(resolution, timedelta) or resolution % MINUTE or not MINUTE <= resolution <= _LONGEST_RESOLUTION:
        raise InvalidNumber("resolution", resolution, "a timedelta of whole minutes, from one minute to 365 days")
    return timedelta(days=resolution.days, seconds=resolution.seconds)


_LONGEST_RESOLUTION = LONGEST_INTERVAL * MINUTE


async def coverage_on(connection: Connection, symbol: str, span: Span, interval: int = 1) -> Coverage:
    """:func:`read_coverage` of a stored symbol, through this connection, and within its transaction if it is in one."""
    is_within = connection.is_in_transaction()
    async with nullcontext() if is_within else connection.transaction(isolation="repeatable_read", readonly=True):
        evidence = await read_evidence(connection, symbol, span, interval=interval)
        refused = await _read_refused(connection, symbol, span)
        unreachable = [UnreachableTrades(*row) for row in await connection.fetch(_UNREACHABLE, symbol, *span)]
    evidence = await only_kept(connection, evidence)
    spans = [CoveredSpan(*part) for part in parts_of(classify_days(evidence))]
    return Coverage(symbol, *span, spans, refused, unreachable)


async def read_evidence(
    connection: Connection, symbol: str, span: Span, *, interval: int = 1, holes: Sequence[Span] | None = None
) -> Evidence:
    """All that decides about the kinds of ``span``, according to the stored data; nothing of it counts as dropped.

    Args:
        interval: Of the candles that are read, in minutes: those without minutes may cover its whole buckets.
        holes: The time of the holes that touch ``span``, if the caller has found it already.
    """
    evidence = await read_covered(connection, symbol, span, interval=interval, holes=holes)
    return msgspec.structs.replace(evidence, maps=await read_maps(connection, symbol, span))


async def read_covered(
    connection: Connection, symbol: str, span: Span, *, interval: int = 1, holes: Sequence[Span] | None = None
) -> Evidence:
    """:func:`read_evidence` without the candles."""
    if holes is None:
        find = find_hole_spans if span[1] - span[0] <= DAY else find_holes_of_long
        holes = await find(connection, symbol, span)
    lows, highs = [low for low, _ in holes], [high for _, high in holes]
    row = await connection.fetchrow(_COVERED, symbol, *span, lows, highs)
    assert row is not None  # the statement has one row, whatever is stored
    longer = {} if interval == 1 else await find_longer_cover(connection, symbol, interval, span)
    together = without([span], without([span], sorted(chain.from_iterable(longer.values()))))
    by_trades, by_candles = ([(each.lower, each.upper) for each in row[name]] for name in ("by_trades", "by_candles"))
    return Evidence(span, [span], by_trades, by_candles, together, {}, row["now"])


async def only_kept(connection: Connection, evidence: Evidence) -> Evidence:
    """The evidence, without the time whose one-minute candles were dropped.

    Call this after the snapshot of the evidence: it may lack candles that were dropped meanwhile.
    """
    return msgspec.structs.replace(evidence, kept=await read_kept(connection, evidence.asked))


async def read_kept(connection: Connection, span: Span, relation: str = "candles") -> list[Span]:
    """The parts of ``span`` whose one-minute candles, or else trades, were never dropped.

    In the other parts, dropped candles and candles that never arrived look the same, whatever is stored there.
    """
    rows = await connection.fetch(_KEPT, *span, relation)
    return [(row["kept"].lower, row["kept"].upper) for row in rows]


_COVERED = f"""
    SELECT now() AS now,
           asked * (coalesce((
               SELECT {COVERED_BY_TRADES} FROM data_sync_status s WHERE symbol = $1 AND data_type = 'trades'
           ), '{{}}') - coalesce((
               SELECT range_agg(tstzrange(low, high))
               FROM unnest($4::timestamptz[], $5::timestamptz[]) AS hole (low, high)
           ), '{{}}')) AS by_trades,
           asked * coalesce((
               SELECT time_ranges FROM data_sync_status WHERE symbol = $1 AND data_type = 'candles_1m'
           ), '{{}}') AS by_candles
    FROM tstzmultirange(tstzrange($2, $3)) AS asked
"""  # noqa: S608 — a constant is put in

_KEPT = """
    SELECT unnest(
        tstzmultirange(tstzrange($1, $2))
        - coalesce((SELECT ranges FROM dropped_ranges WHERE relation = $3), '{}')
    ) AS kept
"""

# The subqueries run only if there is a refused trade without a time.
_REFUSED = """
    SELECT r.id, r.symbol, r.timestamp, r.reason, r.row
    FROM refused_trades r
    WHERE r.symbol = $1 AND CASE
        WHEN r.timestamp IS NOT NULL THEN r.timestamp >= $2 AND r.timestamp < $3
        ELSE r.id BETWEEN (
            SELECT min(first_trade_id) FROM candles
            WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $2 AND timestamp < $3
        ) AND (
            SELECT max(last_trade_id) FROM candles
            WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $2 AND timestamp < $3
        )
    END
    ORDER BY r.id
"""

_UNREACHABLE = """
    SELECT u.symbol, u.timestamp, lower(m.ids) AS first_id, upper(m.ids) - 1 AS last_id
    FROM unreachable_trades u
    CROSS JOIN LATERAL (SELECT u.ids * missing_within(u.symbol, lower(u.ids), upper(u.ids)) AS ids) AS m
    WHERE u.symbol = $1 AND u.timestamp >= $2 AND u.timestamp < $3 AND NOT isempty(m.ids)
    ORDER BY u.timestamp
"""
