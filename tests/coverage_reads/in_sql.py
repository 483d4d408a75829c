"""The kinds of covered time as one SQL statement, which looks at every candle: a second way to the same answer."""

from datetime import datetime

import asyncpg

from kraken_history.completeness.covered_time import COVERED_BY_TRADES
from kraken_history.completeness.hole_times import find_hole_spans
from kraken_history.database.connections import Connection
from kraken_history.intervals import Span


async def covered_parts(connection: Connection, symbol: str, span: Span) -> list[tuple[datetime, datetime, str]]:
    """Start, end and kind of the covered time that was never dropped, in order."""
    holes = await find_hole_spans(connection, symbol, span)
    lows, highs = [low for low, _ in holes], [high for _, high in holes]
    rows: list[asyncpg.Record] = await connection.fetch(_PARTS, symbol, *span, lows, highs)
    return [(row["start"], row["end"], row["kind"]) for row in rows]


_PARTS = f"""
    WITH covered AS (
        SELECT coalesce((
                   SELECT {COVERED_BY_TRADES} FROM data_sync_status s WHERE symbol = $1 AND data_type = 'trades'
               ), '{{}}') - coalesce((
                   SELECT range_agg(tstzrange(low, high))
                   FROM unnest($4::timestamptz[], $5::timestamptz[]) AS hole (low, high)
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
            FROM candles WHERE symbol = $1 AND interval_minutes = 1
              AND timestamp > $2::timestamptz - interval '1 minute' AND timestamp < $3
        ) AS c
    ), kinds AS MATERIALIZED (
        SELECT asked * by_trades * built AS proven,
               asked * (sent * (by_trades + by_candles) + imported) AS exchange,
               asked * (by_trades + by_candles) - stored AS quiet
        FROM covered, candle, LATERAL (
            SELECT tstzmultirange(tstzrange($2, $3))
                 - coalesce((SELECT ranges FROM dropped_ranges WHERE relation = 'candles'), '{{}}')
        ) AS kept (asked)
    )
    SELECT lower(span) AS start, upper(span) AS "end", kind
    FROM kinds, LATERAL (
        SELECT unnest(proven) AS span, 'proven' AS kind
        UNION ALL SELECT unnest(exchange), 'exchange'
        UNION ALL SELECT unnest(quiet), 'quiet'
    ) AS s ORDER BY 1
"""  # noqa: S608 — a constant is put in
