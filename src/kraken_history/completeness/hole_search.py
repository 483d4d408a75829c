"""The time of the holes in a long history.

:func:`~kraken_history.completeness.hole_times.find_hole_spans` reads every candle of the range that it is asked about.
Here the range is first narrowed to the windows that may hold a hole: the ids of the candles at the ends of each window
tell which ids its trades may have.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from kraken_history.completeness.hole_times import find_hole_spans
from kraken_history.database.connections import Connection
from kraken_history.intervals import Span, bucket_start

DAY = timedelta(days=1)

LONGEST_WINDOW = timedelta(days=60)
"""Longest time whose candles one query reads, which bounds its memory in the server."""


async def find_holes_of_long(connection: Connection, symbol: str, span: Span) -> list[Span]:
    """As :func:`~kraken_history.completeness.hole_times.find_hole_spans`, in order, for ranges of any length."""
    # Checked first, because planning the search takes long where there are hundreds of partitions.
    if not await connection.fetchval(_HAS_HOLES, symbol):
        return []
    windows = [span]
    for width in (LONGEST_WINDOW, DAY):
        windows = await _find_suspects(connection, symbol, list(split(windows, width)))
    holes: set[Span] = set()
    for window in split(_joined(windows), LONGEST_WINDOW):
        holes.update(await find_hole_spans(connection, symbol, window))
    return sorted(holes)


def split(spans: Iterable[Span], width: timedelta) -> Iterator[Span]:
    """The spans, cut at full days in UTC into pieces of at most ``width``, which is whole days."""
    for low, high in spans:
        while low < high:
            end = min(high, bucket_start(low, DAY) + width)
            yield low, end
            low = end


def _joined(windows: Iterable[Span]) -> list[Span]:
    joined: list[Span] = []
    for low, high in windows:
        if joined and joined[-1][1] == low:
            low, _ = joined.pop()
        joined.append((low, high))
    return joined


async def _find_suspects(connection: Connection, symbol: str, windows: Sequence[Span]) -> list[Span]:
    """The windows, which are in order, that may touch the time of a hole."""
    if not windows:
        return []
    lows, highs = [low for low, _ in windows], [high for _, high in windows]
    rows = await connection.fetch(_SUSPECTS, symbol, lows, highs, _minute_of(lows[0]), highs[-1])
    return [(row["low"], row["high"]) for row in rows]


def _minute_of(moment: datetime) -> datetime:
    return bucket_start(moment, timedelta(minutes=1))


_HAS_HOLES = """
    SELECT EXISTS (
        SELECT FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'
          AND NOT isempty(id_ranges) AND NOT isempty(ledger_holes(id_ranges, absent_id_ranges))
    )
"""

# Times follow ids, so the trades of a window have ids above those of the candles before it and below those after it.
_SUSPECTS = """
    WITH hole AS MATERIALIZED (
        SELECT ledger_holes(id_ranges, absent_id_ranges) AS ids
        FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'
    ), bounded AS (
        SELECT w.n, w.low, w.high, first.id AS first_id, last.id AS last_id
        FROM unnest($2::timestamptz[], $3::timestamptz[]) WITH ORDINALITY AS w (low, high, n)
        LEFT JOIN LATERAL (
            SELECT first_trade_id AS id FROM candles
            WHERE symbol = $1 AND interval_minutes = 1 AND first_trade_id IS NOT NULL
              AND timestamp >= $4 AND timestamp < $5
              AND timestamp >= date_trunc('minute', w.low) AND timestamp < w.high
            ORDER BY timestamp LIMIT 1
        ) AS first ON true
        LEFT JOIN LATERAL (
            SELECT last_trade_id AS id FROM candles
            WHERE symbol = $1 AND interval_minutes = 1 AND first_trade_id IS NOT NULL
              AND timestamp >= $4 AND timestamp < $5
              AND timestamp >= date_trunc('minute', w.low) AND timestamp < w.high
            ORDER BY timestamp DESC LIMIT 1
        ) AS last ON true
    )
    SELECT low, high FROM (
        SELECT low, high, n,
               max(last_id) OVER (ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before,
               min(first_id) OVER (ORDER BY n ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS after
        FROM bounded
    ) AS w, hole
    WHERE hole.ids && CASE WHEN before > after THEN int8range(after, before, '[]') ELSE int8range(before, after) END
    ORDER BY n
"""
