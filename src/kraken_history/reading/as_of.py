"""Candles as they were known at an earlier instant, so that a test cannot peek at what was healed later.

Rows know when they were stored (``stored_at``, by the database's clock): a trade when it came, a one-minute candle
when it last changed. A minute as of an instant is

* its stored candle, if that has not changed since;
* otherwise, the candle of those of its trades that were stored by then; none if there was none.

So candles made of trades come back exactly as they were. A candle of the exchange or of a download that has changed
since does not: the minute then shows the trades of that time, which may be fewer. That errs on the safe side. Where
retention has dropped trades, a minute that has changed since shows nothing; and where it has dropped one-minute
candles, neither do longer intervals, which are made of one-minute candles here. What was stored before the database
kept these times counts as known ever since.

A row is stored a moment before others can see it: as of an instant within the transaction of a write, part of what it
wrote counts as known. A write takes milliseconds; an imported file, as long as its import.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from kraken_history.intervals import Span, as_utc, bucket_end, bucket_start, checked_interval, closed_window, width_of
from kraken_history.reading.candle_query import COLUMNS
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

    As of a time to come, those of the present.

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
                f"SELECT {COLUMNS} FROM ({query}) AS c ORDER BY timestamp {most}",  # noqa: S608 — our own SQL
                symbol,
                start_of_part,
                end_of_part,
                known_at,
            )
        )
    return candles


def _parts(span: Span, interval: int) -> Iterator[Span]:
    """The span in parts of about a month, in whole buckets: what a limit leaves over is not computed."""
    width = width_of(interval)
    step = max(_PART // width, 1) * width
    low, high = span
    while low < high:
        yield low, min(low + step, high)
        low += step


_PART = timedelta(days=31)


# Trades are looked up by the hours in which candles have changed, each by the range of its key: one healed minute does
# not cost the trades of a year. LATERAL leaves the planner no other way, since it cannot know how many have changed.
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
    SELECT $1 AS symbol, b.minute AS timestamp, 1 AS interval_minutes, {", ".join(VALUES)}
    FROM changed h CROSS JOIN LATERAL (
        SELECT date_trunc('minute', t.timestamp, 'UTC') AS minute, {OF_TRADES}
        FROM trades t
        WHERE t.symbol = $1 AND t.timestamp >= h.hour AND t.timestamp < h.hour + interval '1 hour'
          AND date_trunc('minute', t.timestamp, 'UTC') = ANY (h.minutes)
          AND (t.stored_at IS NULL OR t.stored_at <= $4)
        GROUP BY 1
    ) AS b
"""  # noqa: S608 — only constants are put in
