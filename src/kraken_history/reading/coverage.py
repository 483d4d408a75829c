"""Which time is covered, and candles for those who have to know.

A symbol's trades are covered as :mod:`~kraken_history.completeness.covered_time` says: between the oldest and the
newest that are stored, and where Kraken was asked and had nothing else; but for the holes in their ids. A hole
reaches from the minute of the last stored trade before it to the minute of the first one after it, both included,
because the candles of both may lack trades. Nothing is claimed of the time after the newest trade until somebody has
asked for it, nor of time whose one-minute candles were ever dropped."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Literal, get_args

import asyncpg
from msgspec import Struct

from kraken_history.completeness.covered_time import COVERED_BY_TRADES
from kraken_history.completeness.hole_times import find_hole_spans
from kraken_history.database.connections import Connection
from kraken_history.errors import CoverageError, InvalidChoice
from kraken_history.intervals import Span, bucket_start, checked_interval, checked_range, closed_window, width_of
from kraken_history.reading.candles import checked_limit, read_latest_of, read_span, require_symbol
from kraken_history.reading.database import Database
from kraken_history.reading.names import by_any_name
from kraken_history.records import MINUTE, HistoricalCandle, MadeUpCandle, TimeRange

GapsChoice = Literal["ignore", "raise", "pad", "fill"]
"""``fill`` is an older name of ``pad``."""

PADS: tuple[GapsChoice, ...] = ("pad", "fill")

CoverageKind = Literal["proven", "exchange", "quiet", "missing"]
"""What is known of some time.

``proven``: its trades are stored, and their ids prove that none is missing. ``exchange``: its candles are the
exchange's own, whole, or of a download. ``quiet``: covered, and nobody traded. ``missing``: all else.
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


@by_any_name
async def read_coverage(database: Database, symbol: str, start: datetime, end: datetime) -> Coverage:
    """What is known of ``[start, end)``, as of one moment.

    Raises:
        UsageError: As the checks say.
        UnknownSymbol: Nothing of this symbol is stored.
        ServiceUnavailable: The database is gone.
    """
    return await _coverage_of(database, symbol, start, end)


async def _coverage_of(database: Database, symbol: str, start: datetime, end: datetime) -> Coverage:
    span = checked_range(start, end)
    await require_symbol(database, symbol)
    async with database.connection() as connection:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            known = await _classify(connection, symbol, span)
        # After that moment: candles that were dropped meanwhile may have been looked for in vain.
        kept = await _kept(connection, span)
    return Coverage(symbol, *span, _with_missing(_within(kept, known), *span))


@asynccontextmanager
async def complete(database: Database, symbol: str, span: Span) -> AsyncIterator[None]:
    """Candles of ``span`` that are read within lack nothing; other errors as :func:`read_coverage`.

    Looked at before they are read, as what is stored meanwhile only adds to them; and for what was dropped, after.

    Raises:
        CoverageError: Part of it is missing.
    """
    await _require_coverage(database, symbol, span)
    yield
    async with database.connection() as connection:
        kept = await _kept(connection, span)
    if kept != [span]:
        await _require_coverage(database, symbol, span)


async def _require_coverage(database: Database, symbol: str, span: Span) -> None:
    coverage = await _coverage_of(database, symbol, *span)
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
    """:func:`~kraken_history.reading.candles.read_candles` where it matters what is not there.

    With ``pad`` there is a candle for every bucket from the first known close on, up to the last bucket that is
    closed by the database's clock: no more of them than the range has since then, nor than ``limit``.

    Raises:
        CoverageError: With ``raise``, part of the buckets that were asked for is missing; with ``limit``, of those up
            to the last candle that would be returned.
        InvalidChoice: ``gaps`` is neither of these.
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
    async with complete(database, symbol, (window[0], reach)):
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
    """The candle from which on there is a close for every bucket of ``window``: the last before it, or its first."""
    found = await read_latest_of(database, symbol, interval, 1, window[0])
    return next(iter(found or await read_span(database, symbol, interval, window, 1)), None)


async def read_last_close(database: Database, interval: int) -> datetime:
    """When a bucket of this interval ended last, by the database's clock."""
    [row] = await database.fetch("SELECT now() AS now")
    return bucket_start(row["now"], width_of(interval))


def pad_buckets(
    known: HistoricalCandle, candles: Sequence[HistoricalCandle], start: datetime, end: datetime
) -> list[HistoricalCandle]:
    """A candle for every bucket of ``[start, end)``: of ``candles``, or else made up at the close before it.

    Args:
        known: The last candle before ``start``, or the one at ``start``.
        candles: In order. Those past ``end`` are kept, with what is between them.
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
    """What is known by what is stored, in order: start, end and kind."""
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

    Of the others nothing can be said, whatever is stored there: what was dropped and what never came look the same.
    """
    rows = await connection.fetch(_KEPT, *span)
    return [(row["kept"].lower, row["kept"].upper) for row in rows]


def _within(kept: Sequence[Span], known: Sequence[asyncpg.Record]) -> Iterator[CoveredSpan]:
    for low, high, kind in known:
        for start, end in kept:
            if low < end and start < high:
                yield CoveredSpan(max(low, start), min(high, end), kind)


def _with_missing(known: Iterable[CoveredSpan], start: datetime, end: datetime) -> list[CoveredSpan]:
    """The spans that are known, in their order, and what is missing between them."""
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


# A minute that is cut by a bound of what is covered is looked at in parts. Of a candle built from trades only the
# covered part is proven: it may lack trades of the other. A candle of a minute that is not over yet is not whole. Nor
# may be one that the exchange sent while the minute ran, and then no more; it counts where Kraken was asked for the
# minute since, or no trade is missing.
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
