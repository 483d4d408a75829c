"""Coverage of a symbol's history.

Time is covered by trades as :mod:`~kraken_history.completeness.covered_time` defines: between the oldest and the newest
stored trade, and where Kraken was asked and had no further trades, except for the holes in the ids. A hole extends
from the minute of the last stored trade before it to the minute of the first one after it, both included, because the
candles of both may lack trades. Time after the newest trade is not covered until Kraken has been asked about it. Time
whose one-minute candles were ever dropped counts as missing."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from itertools import chain
from typing import Literal, get_args

import asyncpg
from msgspec import Struct

from kraken_history.completeness.covered_time import COVERED_BY_TRADES
from kraken_history.completeness.hole_times import find_hole_spans
from kraken_history.completeness.longer_cover import find_longer_cover
from kraken_history.database.connections import Connection
from kraken_history.errors import InvalidChoice
from kraken_history.intervals import Span, bucket_start, checked_interval, checked_range
from kraken_history.reading.candles import require_symbol
from kraken_history.reading.database import Database
from kraken_history.reading.live_edge import without
from kraken_history.reading.names import by_any_name
from kraken_history.records import MINUTE, RefusedTrade, TimeRange, UnreachableTrades

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
        return await coverage_on(connection, symbol, span, interval)


async def coverage_on(connection: Connection, symbol: str, span: Span, interval: int = 1) -> Coverage:
    """:func:`read_coverage` of a stored symbol, through this connection, and within its transaction if it is in one."""
    is_within = connection.is_in_transaction()
    async with nullcontext() if is_within else connection.transaction(isolation="repeatable_read", readonly=True):
        known = await classify(connection, symbol, span)
        longer = await find_longer_cover(connection, symbol, interval, span)
        refused = [RefusedTrade(*row) for row in await connection.fetch(_REFUSED, symbol, *span)]
        unreachable = [UnreachableTrades(*row) for row in await connection.fetch(_UNREACHABLE, symbol, *span)]
    # Read after that snapshot: it may lack candles that were dropped meanwhile.
    kept = await read_kept(connection, span)
    spans = _with_longer(_with_missing(_within(kept, known), *span), sorted(chain.from_iterable(longer.values())))
    return Coverage(symbol, *span, spans, refused, unreachable)


async def classify(
    connection: Connection, symbol: str, span: Span, holes: Sequence[Span] | None = None
) -> list[asyncpg.Record]:
    """The covered spans according to the stored data, in order: start, end and kind.

    Args:
        holes: The time of the holes that touch ``span``, if the caller has found it already.
    """
    start, end = span
    holes = await find_hole_spans(connection, symbol, span) if holes is None else holes
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


async def read_kept(connection: Connection, span: Span, relation: str = "candles") -> list[Span]:
    """The parts of ``span`` whose one-minute candles, or else trades, were never dropped.

    In the other parts, dropped candles and candles that never arrived look the same, whatever is stored there.
    """
    rows = await connection.fetch(_KEPT, *span, relation)
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
