"""Coverage of a symbol's history, and reads of candles that depend on it.

Time is covered by trades as :mod:`~kraken_history.completeness.covered_time` defines: between the oldest and the newest
stored trade, and where Kraken was asked and had no further trades, except for the holes in the ids. A hole extends
from the minute of the last stored trade before it to the minute of the first one after it, both included, because the
candles of both may lack trades. Time after the newest trade is not covered until Kraken has been asked about it. Time
whose one-minute candles were ever dropped counts as missing."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import chain
from typing import Literal, get_args

import asyncpg
from msgspec import Struct

from kraken_history.completeness.covered_time import COVERED_BY_TRADES
from kraken_history.completeness.hole_times import find_hole_spans
from kraken_history.completeness.longer_cover import find_longer_cover, without
from kraken_history.database.connections import Connection
from kraken_history.errors import CoverageError, InvalidChoice
from kraken_history.intervals import Span, bucket_start, checked_interval, checked_range, closed_window, width_of
from kraken_history.reading.candles import checked_limit, read_latest_of, read_span, require_symbol
from kraken_history.reading.database import Database
from kraken_history.reading.names import by_any_name
from kraken_history.records import MINUTE, HistoricalCandle, MadeUpCandle, TimeRange

GapsChoice = Literal["ignore", "raise", "pad", "fill"]
"""How a read of candles handles missing data; ``fill`` is an older name of ``pad``."""

PADS: tuple[GapsChoice, ...] = ("pad", "fill")

CoverageKind = Literal["proven", "exchange", "quiet", "missing"]
"""How a range of time is covered.

``proven``: its trades are stored, and their ids prove that none is missing. ``exchange``: its candles are complete
candles of the exchange, or of a download. ``quiet``: covered, and nobody traded. ``missing``: all other time.
"""

KINDS: tuple[CoverageKind, ...] = get_args(CoverageKind)


class CoveredSpan(TimeRange, frozen=True, order=True, gc=False):
    """A range of time of one kind."""

    kind: CoverageKind


class Coverage(Struct, frozen=True):
    """How a symbol's history between ``start`` and ``end`` is covered.

    Attributes:
        spans: In order. Each begins where the one before it ends, and has another kind. The first begins at
            ``start``, the last ends at ``end``.
    """

    symbol: str
    start: datetime
    end: datetime
    spans: Sequence[CoveredSpan]

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


@by_any_name
async def read_coverage(database: Database, symbol: str, start: datetime, end: datetime, interval: int = 1) -> Coverage:
    """The coverage of ``[start, end)``, as of one moment, for reads of candles of an interval.

    Raises:
        UsageError: An argument is not valid.
        UnknownSymbol: Nothing is stored for this symbol.
        ServiceUnavailable: The database is unavailable.
    """
    return await _coverage_of(database, symbol, start, end, checked_interval(interval))


async def _coverage_of(database: Database, symbol: str, start: datetime, end: datetime, interval: int = 1) -> Coverage:
    span = checked_range(start, end)
    await require_symbol(database, symbol)
    async with database.connection() as connection:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            known = await _classify(connection, symbol, span)
            longer = await find_longer_cover(connection, symbol, interval, span)
        # Read after that snapshot: it may lack candles that were dropped meanwhile.
        kept = await _kept(connection, span)
    spans = _with_missing(_within(kept, known), *span)
    return Coverage(symbol, *span, _with_longer(spans, list(chain.from_iterable(longer.values()))))


@asynccontextmanager
async def complete(database: Database, symbol: str, span: Span, interval: int = 1) -> AsyncIterator[None]:
    """Ensure that candles of ``span`` that are read in this context are complete. Other errors: :func:`read_coverage`.

    Coverage is checked before the read, because data stored meanwhile only adds to it; dropped time is checked after.

    Raises:
        CoverageError: Part of ``span`` is missing.
    """
    await _require_coverage(database, symbol, span, interval)
    yield
    async with database.connection() as connection:
        kept = await _kept(connection, span)
    if kept != [span]:
        await _require_coverage(database, symbol, span, interval)


async def _require_coverage(database: Database, symbol: str, span: Span, interval: int) -> None:
    coverage = await _coverage_of(database, symbol, *span, interval)
    if not coverage.is_complete:
        raise CoverageError(symbol, coverage.missing)


@by_any_name
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
    """:func:`~kraken_history.reading.candles.read_candles`, which raises or pads if data is missing.

    With ``pad`` there is a candle for every bucket of the range from the first known close on, up to the last bucket
    that is closed by the database's clock, and at most ``limit`` candles.

    Raises:
        CoverageError: With ``raise``, part of the requested buckets is missing. With ``limit``, only buckets up to
            the last candle to be returned count.
        InvalidChoice: ``gaps`` is neither ``raise`` nor ``pad``.
    """
    if gaps not in ("raise", *PADS):
        raise InvalidChoice("gaps", gaps, get_args(GapsChoice))
    window = closed_window(start, end, interval)
    interval, limit = checked_interval(interval), checked_limit(limit)
    if window[0] == window[1]:
        await require_symbol(database, symbol)
        return []
    if gaps == "raise":
        return await _read_or_raise(database, symbol, interval, window, limit)
    return await _read_padded(database, symbol, interval, window, limit)


async def _read_or_raise(
    database: Database, symbol: str, interval: int, window: Span, limit: int | None
) -> list[HistoricalCandle]:
    reach = window[1]
    if limit is not None:
        candles = await read_span(database, symbol, interval, window, limit)
        reach = candles[-1].timestamp + width_of(interval) if len(candles) == limit else reach
    async with complete(database, symbol, (window[0], reach), interval):
        return await read_span(database, symbol, interval, (window[0], reach), limit)


async def _read_padded(
    database: Database, symbol: str, interval: int, window: Span, limit: int | None
) -> list[HistoricalCandle]:
    width = width_of(interval)
    start, end = window
    known = await read_known(database, symbol, interval, window)
    if known is None:
        return []
    start = max(start, known.timestamp)
    if limit is not None and limit < (end - start) // width:
        end = start + limit * width
    candles = await read_span(database, symbol, interval, (start, end))
    return pad_buckets(known, candles, start, min(end, await read_last_close(database, interval)))


async def read_known(database: Database, symbol: str, interval: int, window: Span) -> HistoricalCandle | None:
    """The last candle before ``window``, or else its first: from it on, every bucket has a known close."""
    found = await read_latest_of(database, symbol, interval, 1, window[0])
    return next(iter(found or await read_span(database, symbol, interval, window, 1)), None)


async def read_last_close(database: Database, interval: int) -> datetime:
    """End of the last closed bucket of this interval, by the database's clock."""
    [row] = await database.fetch("SELECT now() AS now")
    return bucket_start(row["now"], width_of(interval))


def pad_buckets(
    known: HistoricalCandle, candles: Sequence[HistoricalCandle], start: datetime, end: datetime
) -> list[HistoricalCandle]:
    """A candle for every bucket of ``[start, end)``: from ``candles``, or else made up at the close before it.

    Args:
        known: The last candle before ``start``, or the one at ``start``.
        candles: In order. Candles past ``end`` are kept, and buckets between them are padded too.
    """
    width = width_of(known.interval_minutes)
    padded: list[HistoricalCandle] = []
    last, due = known, start

    def pad_until(moment: datetime) -> None:
        nonlocal due
        while due < moment:
            padded.append(MadeUpCandle.after(last, due))
            due += width

    for candle in candles:
        pad_until(candle.timestamp)
        padded.append(candle)
        last, due = candle, candle.timestamp + width
    pad_until(end)
    return padded


async def _classify(connection: Connection, symbol: str, span: Span) -> list[asyncpg.Record]:
    """The covered spans according to the stored data, in order: start, end and kind."""
    start, end = span
    holes = await find_hole_spans(connection, symbol, span)
    rows: list[asyncpg.Record] = await connection.fetch(
        _SPANS,
        symbol,
        start,
        end,
        bucket_start(start, MINUTE),
        [low for low, _ in holes],
        [high for _, high in holes],
    )
    return rows


async def _kept(connection: Connection, span: Span) -> list[Span]:
    """The parts of ``span`` whose one-minute candles were never dropped.

    In the other parts, dropped candles and candles that never arrived look the same, whatever is stored there.
    """
    rows = await connection.fetch(_KEPT, *span)
    return [(row["kept"].lower, row["kept"].upper) for row in rows]


def _within(kept: Sequence[Span], known: Sequence[asyncpg.Record]) -> Iterator[CoveredSpan]:
    for low, high, kind in known:
        for start, end in kept:
            if low < end and start < high:
                yield CoveredSpan(max(low, start), min(high, end), kind)


def _with_missing(known: Iterable[CoveredSpan], start: datetime, end: datetime) -> list[CoveredSpan]:
    """The known spans, in order, with a span of kind ``missing`` in each gap between them."""
    spans: list[CoveredSpan] = []
    reached = start
    for span in known:
        if reached < span.start:
            spans.append(CoveredSpan(reached, span.start, "missing"))
        spans.append(span)
        reached = span.end
    if reached < end:
        spans.append(CoveredSpan(reached, end, "missing"))
    return spans


def _with_longer(spans: list[CoveredSpan], longer: Sequence[Span]) -> list[CoveredSpan]:
    """The spans, with ``exchange`` instead of ``missing`` where candles without minutes cover whole buckets."""
    if not longer:
        return spans
    found: list[CoveredSpan] = []
    for span in spans:
        for part in _with_exchange(span, longer) if span.kind == "missing" else [span]:
            start = found.pop().start if found and found[-1].kind == part.kind else part.start
            found.append(CoveredSpan(start, part.end, part.kind))
    return found


def _with_exchange(span: CoveredSpan, longer: Sequence[Span]) -> list[CoveredSpan]:
    missing = without([(span.start, span.end)], longer)
    covered = without([(span.start, span.end)], missing)
    return sorted([CoveredSpan(*m, "missing") for m in missing] + [CoveredSpan(*c, "exchange") for c in covered])


# If covered time begins or ends inside a minute, the parts of the minute are classified separately. Of a candle built
# from trades, only the covered part is proven, because the candle may lack trades of the other part. A candle of a
# minute that has not ended is incomplete. If the exchange sent a candle while the minute ran, and no later version, it
# may be incomplete too. It counts only if Kraken was asked for the minute since, or no trade is missing.
_SPANS = f"""
    WITH covered AS (
        SELECT coalesce((
                   SELECT {COVERED_BY_TRADES} FROM data_sync_status s WHERE symbol = $1 AND data_type = 'trades'
               ), '{{}}') - coalesce((
                   SELECT range_agg(tstzrange(low, high))
                   FROM unnest($5::timestamptz[], $6::timestamptz[]) AS hole (low, high)
               ), '{{}}') AS by_trades,
               coalesce((
                   SELECT time_ranges FROM data_sync_status WHERE symbol = $1 AND data_type = 'candles_1m'
               ), '{{}}') AS by_candles
    ), candle AS (
        SELECT coalesce(range_agg(minute), '{{}}') AS stored,
               coalesce(range_agg(minute) FILTER (WHERE source = 'trades'), '{{}}') AS built,
               coalesce(range_agg(minute) FILTER (WHERE source = 'ohlc' AND upper(minute) <= now()), '{{}}') AS sent,
               coalesce(range_agg(minute) FILTER (WHERE source = 'csv' AND upper(minute) <= now()), '{{}}') AS imported
        FROM (
            SELECT tstzrange(timestamp, timestamp + interval '1 minute') AS minute, source
            FROM candles
            WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $4 AND timestamp < $3
        ) AS c
    ), kinds AS MATERIALIZED (
        SELECT asked * by_trades * built AS proven,
               asked * (sent * (by_trades + by_candles) + imported) AS exchange,
               asked * (by_trades + by_candles) - stored AS quiet
        FROM covered, candle, tstzmultirange(tstzrange($2, $3)) AS asked
    )
    SELECT lower(span) AS start, upper(span) AS "end", kind
    FROM kinds, LATERAL (
        SELECT unnest(proven) AS span, 'proven' AS kind
        UNION ALL SELECT unnest(exchange), 'exchange'
        UNION ALL SELECT unnest(quiet), 'quiet'
    ) AS s ORDER BY 1
"""  # noqa: S608 — a constant is put in

_KEPT = """
    SELECT unnest(
        tstzmultirange(tstzrange($1, $2))
        - coalesce((SELECT ranges FROM dropped_ranges WHERE relation = 'candles'), '{}')
    ) AS kept
"""
