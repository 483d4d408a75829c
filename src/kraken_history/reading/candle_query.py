"""The queries for candles of any interval, built without touching a database.

A stored interval is read from its view. Any other interval is aggregated from the longest stored interval that divides
it. A view can be behind: time that changed before its watermark is marked stale until the view is refreshed. Stale
buckets are aggregated again here, from candles that are not stale. The query then returns the fuller of the two
candles, because the base rows of an old bucket may have been dropped after its candle was stored.

Where candles without minutes can serve, the query returns the fuller of these and the others.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from kraken_history.intervals import LONGEST_INTERVAL, VIEWS, Span, best_stored, bucket_end, bucket_start, width_of
from kraken_history.records import HistoricalCandle
from kraken_history.storing.candle_rules import longer_candles

COLUMNS = ", ".join(HistoricalCandle.__struct_fields__)
"""The columns of a candle, in the order of the record's fields."""

_NUMBERS = ("open", "high", "low", "close", "volume", "quote_volume", "vwap")

CANONICAL_COLUMNS = ", ".join(
    f"trim_scale({name}) AS {name}" if name in _NUMBERS else name for name in HistoricalCandle.__struct_fields__
)
"""As :data:`COLUMNS`, without zeros after the last digit behind the decimal point.

For the outermost SELECT of a read: candles that were stored earlier, or are sums, have such zeros.
"""

# A candle that has not been refreshed since its source is kept, because its minutes were dropped, has none.
_COLUMNS_OF_VIEW = COLUMNS.replace("source", "coalesce(source, 'ohlc') AS source")


class StoredView(Struct, frozen=True):
    """Where the candles of a stored interval are read, for one symbol.

    Attributes:
        relation: The view; or the table below it, whose planning takes a tenth of the time.
        stale: Time whose candles are missing from it or out of date.
        is_corrected: True if one-minute candles were corrected, and have fewer trades than before, since its candles
            were stored.
    """

    relation: str
    stale: Sequence[Span]
    is_corrected: bool = False


class LongerPart(Struct, frozen=True):
    """Where candles without minutes can serve.

    Attributes:
        interval: Their interval, in minutes.
        spans: In whole buckets of the interval that is read.
    """

    interval: int
    spans: Sequence[Span]


class Marks(Struct, frozen=True):
    """Where to read the candles of one symbol.

    Attributes:
        views: Where to read each view, keyed by its name.
        longer: Where candles without minutes can serve.
    """

    views: Mapping[str, StoredView]
    longer: Sequence[LongerPart] = ()


class Query:
    """SQL whose values are either numbered arguments or literals."""

    def __init__(self, *, literal: bool = False) -> None:
        self.arguments: list[object] = []
        self._literal = literal

    def put(self, value: str | datetime, type_: str) -> str:
        """The text that represents a value in the SQL.

        Args:
            type_: The value's type in SQL.
        """
        if self._literal:
            return f"{_literal(value)}::{type_}"
        self.arguments.append(value)
        return f"${len(self.arguments)}::{type_}"


def _literal(value: str | datetime) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def marked_views(interval: int) -> list[str]:
    """The views whose marks :func:`select_candles` needs; none for one-minute candles."""
    stored = best_stored(interval)
    if stored == 1:
        return []
    return [VIEWS[stored]] if stored <= _HOUR else [VIEWS[stored], VIEWS[_HOUR]]


def select_candles(query: Query, symbol: str, interval: int, span: Span, marks: Marks) -> str:
    """A query for a symbol's candles that open within ``span``, in no order.

    Args:
        span: Its bounds are bounds of buckets of this interval.
        marks: One for each of :func:`marked_views`.
    """
    name = query.put(symbol, "text")
    stored = best_stored(interval)
    source = _select_stored(query, name, stored, span, marks.views)
    candles = source if stored == interval else longer_candles(source, interval)
    return _fuller_of(query, name, interval, candles, marks.longer) if marks.longer else candles


def _fuller_of(query: Query, name: str, interval: int, candles: str, parts: Sequence[LongerPart]) -> str:
    """Of the candles from minutes and those without, the fuller one of each bucket.

    Of equally full ones it is that of the minutes, or else the one that is made of the fewest candles.
    """
    without_minutes = "".join(
        f" UNION ALL SELECT {COLUMNS}, {part.interval} AS rank"  # noqa: S608 — only our own SQL is put in
        f" FROM ({_select_longer(query, name, interval, part)}) AS l"
        for part in parts
    )
    return f"""
    SELECT DISTINCT ON (timestamp) {COLUMNS} FROM (
        SELECT {COLUMNS}, {LONGEST_INTERVAL} AS rank FROM ({candles}) AS m{without_minutes}
    ) AS either ORDER BY timestamp, trade_count DESC, source DESC, rank DESC"""  # noqa: S608 — only our own SQL


def _select_longer(query: Query, name: str, interval: int, part: LongerPart) -> str:
    start, end = query.put(part.spans[0][0], "timestamptz"), query.put(part.spans[-1][1], "timestamptz")
    source = f"""
    SELECT {COLUMNS} FROM longer_candles
    WHERE symbol = {name} AND interval_minutes = {part.interval} AND timestamp >= {start} AND timestamp < {end}
      AND {_is_within(query, part.spans)}"""  # noqa: S608 — only our own SQL is put in
    return source if part.interval == interval else longer_candles(source, interval)


def _select_stored(query: Query, name: str, stored: int, span: Span, views: Mapping[str, StoredView]) -> str:
    if stored == 1:
        return _select_relation(query, name, VIEWS[stored], stored, span)
    view = views[VIEWS[stored]]
    stale = buckets_of(view.stale, stored, span)
    if not stale:
        return _select_relation(query, name, view.relation, stored, span)
    is_stale = _is_within(query, stale)
    extent = stale[0][0], stale[-1][1]
    base = 1 if stored <= _HOUR else _HOUR
    fresh = longer_candles(
        f"SELECT * FROM ({_select_stored(query, name, base, extent, views)}) AS b WHERE {is_stale}",  # noqa: S608
        stored,
    )
    return f"""
    SELECT {COLUMNS} FROM ({_select_relation(query, name, view.relation, stored, span)}) AS v WHERE NOT {is_stale}
    UNION ALL
    SELECT {COLUMNS} FROM (
        SELECT DISTINCT ON (timestamp) * FROM (
            SELECT {COLUMNS}, 0 AS rank, trade_count{_correction(name, stored, view)} AS fullness
            FROM ({_select_relation(query, name, view.relation, stored, extent)}) AS v WHERE {is_stale}
            UNION ALL
            SELECT {COLUMNS}, 1 AS rank, trade_count AS fullness FROM ({fresh}) AS f
        ) AS either ORDER BY timestamp, fullness DESC, rank DESC
    ) AS fuller"""  # noqa: S608 — only our own SQL is put in


def _correction(name: str, stored: int, view: StoredView) -> str:
    """The number of trades that a stored candle may lose, to be subtracted; nothing if no minute was corrected."""
    if not view.is_corrected:
        return ""
    return f""" - coalesce((
        SELECT sum(k.trade_count) FROM corrected_minutes k
        WHERE k.name = '{VIEWS[stored]}' AND k.symbol = {name} AND k.timestamp >= v.timestamp
          AND k.timestamp < v.timestamp + interval '{stored} minutes'
    ), 0)"""  # noqa: S608 — only our own SQL is put in


def _select_relation(query: Query, name: str, relation: str, stored: int, span: Span) -> str:
    start, end = query.put(span[0], "timestamptz"), query.put(span[1], "timestamptz")
    return f"""
    SELECT {COLUMNS if stored == 1 else _COLUMNS_OF_VIEW} FROM {relation}
    WHERE symbol = {name} AND interval_minutes = {stored} AND timestamp >= {start} AND timestamp < {end}"""  # noqa: S608


def _is_within(query: Query, spans: Sequence[Span]) -> str:
    # PostgreSQL searches a multirange by halves, so marks that are scattered over years cost little. It is in a
    # subquery because TimescaleDB's planner fails on a constant multirange.
    ranges = ",".join(f"[{start.isoformat()},{end.isoformat()})" for start, end in spans)
    return f"timestamp <@ (SELECT {query.put(f'{{{ranges}}}', 'text')}::tstzmultirange)"


def buckets_of(marks: Sequence[Span], interval: int, span: Span) -> list[Span]:
    """The buckets of an interval inside ``span`` that marks touch, adjacent ones merged; oldest first."""
    width = width_of(interval)
    found: list[Span] = []
    for marked in sorted(marks):
        start = max(span[0], bucket_start(marked[0], width))
        end = min(span[1], bucket_end(marked[1], width))
        if start >= end:
            continue
        if found and start <= found[-1][1]:
            start, end = found[-1][0], max(end, found.pop()[1])
        found.append((start, end))
    return found


def windows_back(end: datetime, oldest: datetime, count: int, width: timedelta) -> list[Span]:
    """Spans to search, newest first, for the ``count`` newest candles before ``end``; up to four times longer each.

    Args:
        end: A bound of buckets.
        oldest: No candle is older than the bucket that contains this time.
    """
    found: list[Span] = []
    buckets = count + 1
    lowest = bucket_start(oldest, width)
    while end > lowest:
        start = max(lowest, end - min(buckets, (end - lowest) // width) * width)
        found.append((start, end))
        end, buckets = start, buckets * 4
    return found


_HOUR = 60
