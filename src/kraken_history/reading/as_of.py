"""Candles as they were known at an earlier instant, so that a backtest does not see data that was healed later.

Each row records when it was stored (``stored_at``, by the database's clock): a trade when it arrived, a one-minute
candle when it last changed. A minute as of an instant is

* its stored candle, if that has not changed since the instant;
* otherwise, the candle built from its trades that were stored by then. If there were none, there is no candle.

So candles built from trades are returned exactly as they were. If a candle of the exchange or of a download has changed
since, the minute shows the trades stored at that time instead. They may be fewer, which errs on the safe side. If
retention has dropped the trades, a minute that has changed since shows nothing. If it has dropped one-minute candles,
longer intervals show nothing either, because they are built from one-minute candles here. Rows that were stored before
the database recorded these times count as always known.

A row gets its time a moment before others can see it. As of an instant within a write's transaction, part of the rows
of that write count as known. A write takes milliseconds; for an imported file, it takes as long as the import.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from kraken_history.intervals import Span, as_utc, bucket_end, bucket_start, checked_interval, closed_window, width_of
from kraken_history.reading.candle_query import CANONICAL_COLUMNS, COLUMNS
from kraken_history.reading.candles import candles_of, checked_limit, read_candles, read_extent
from kraken_history.reading.database import Database
from kraken_history.reading.names import by_any_name
from kraken_history.records import MINUTE, HistoricalCandle
from kraken_history.storing.candle_rules import OF_TRADES, VALUES, longer_candles


@by_any_name
async def read_candles_as_of(
    database: Database,
    symbol: str,
    interval: int,
    start: datetime,
    end: datetime,
    as_of: datetime,
    limit: int | None = None,
) -> list[HistoricalCandle]:
    """Candles of :func:`~kraken_history.reading.candles.read_candles`, as they were known at ``as_of``.

    If ``as_of`` is in the future, the candles are those of the present.

    Raises:
        InvalidTime: ``as_of`` is naive.
    """
    known_at = as_utc(as_of)
    interval, limit = checked_interval(interval), checked_limit(limit)
    low, high = closed_window(start, end, interval)
    [row] = await database.fetch("SELECT $1 >= clock_timestamp() AS is_to_come", known_at)
    if row["is_to_come"]:
        return await read_candles(database, symbol, interval, start, end, limit)
    extent = await read_extent(database, symbol)
    if extent.oldest is None or extent.newest is None:
        return []
    width = width_of(interval)
    low, high = max(low, bucket_start(extent.oldest, width)), min(high, bucket_end(extent.newest + MINUTE, width))
    query = _CANDLES if interval == 1 else longer_candles(_CANDLES, interval)
    candles: list[HistoricalCandle] = []
    for start_of_part, end_of_part in _parts((low, high), interval):
        left = None if limit is None else limit - len(candles)
        if left == 0:
            break
        most = "" if left is None else f"LIMIT {left}"
        candles += candles_of(
            await database.fetch(
                f"SELECT {CANONICAL_COLUMNS} FROM ({query}) AS c ORDER BY timestamp {most}",  # noqa: S608 — our own SQL
                symbol,
                start_of_part,
                end_of_part,
                known_at,
            )
        )
    return candles


def _parts(span: Span, interval: int) -> Iterator[Span]:
    """The span in parts of about a month, in whole buckets: candles beyond a limit are not computed."""
    width = width_of(interval)
    step = max(_PART // width, 1) * width
    low, high = span
    while low < high:
        yield low, min(low + step, high)
        low += step


_PART = timedelta(days=31)


# Trades are looked up only for the hours in which candles have changed, each hour by a range of the key: one healed
# minute does not cost the trades of a year. LATERAL forces this plan, because the planner cannot know how many candles
# have changed. The bounds of the candles are those of their trades, and are repeated, so that only the partitions
# between them are opened. MATERIALIZED: `stored` is used twice, and the candles are read once.
_CANDLES = f"""
    WITH stored AS MATERIALIZED (
        SELECT {COLUMNS}, stored_at IS NULL OR stored_at <= $4 AS is_known
        FROM candles
        WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $2 AND timestamp < $3
    ), changed AS (
        SELECT date_trunc('hour', timestamp, 'UTC') AS hour, array_agg(timestamp) AS minutes
        FROM stored WHERE NOT is_known GROUP BY 1
    )
    SELECT {COLUMNS} FROM stored WHERE is_known
    UNION ALL
    SELECT $1 AS symbol, b.minute AS timestamp, 1 AS interval_minutes, {", ".join(VALUES)},
           b.source
    FROM changed h CROSS JOIN LATERAL (
        SELECT date_trunc('minute', t.timestamp, 'UTC') AS minute, {OF_TRADES}
        FROM trades t
        WHERE t.symbol = $1 AND t.timestamp >= h.hour AND t.timestamp < h.hour + interval '1 hour'
          AND t.timestamp >= $2 AND t.timestamp < $3
          AND date_trunc('minute', t.timestamp, 'UTC') = ANY (h.minutes)
          AND (t.stored_at IS NULL OR t.stored_at <= $4)
        GROUP BY 1
    ) AS b
"""  # noqa: S608 — only constants are put in
