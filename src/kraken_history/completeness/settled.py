"""Up to when the trades of symbols are settled: no earlier trade is missing or still expected.

Unless ids are missing, the ledger alone answers this. Otherwise the query determines the last stored id before the
reader's position, from its candle or, if the exchange's candle without ids is stored, from its trades. Only holes after
that id matter. `start` is the minute in which the first of them begins. The query reads no rows of the larger tables
older than $6. That bound is a constant, so that few chunks are planned and locked. Each OFFSET 0 keeps the planner from
inlining its subquery, which would evaluate the expression `holes` once per reference.
"""

SETTLED = """
    SELECT w.symbol, k.now,
           CASE WHEN h.first_id IS NULL THEN f.frontier
                ELSE least(f.frontier, greatest(start.minute, k.now - $4::interval)) END AS until,
           c.oldest_timestamp AS oldest,
           c.last_sync_at AS stored_at,
           t.newest_timestamp IS NOT NULL AS has_trades
    FROM (
        SELECT coalesce($7::timestamptz, now()) AS now, max(newest_timestamp) AS newest
        FROM data_sync_status WHERE data_type = 'trades'
    ) AS k
    CROSS JOIN unnest($1::text[], $2::timestamptz[]) AS w (symbol, position)
    LEFT JOIN data_sync_status t ON t.symbol = w.symbol AND t.data_type = 'trades'
    LEFT JOIN data_sync_status c ON c.symbol = w.symbol AND c.data_type = 'candles_1m'
    CROSS JOIN LATERAL (
        SELECT CASE
                   WHEN t.newest_timestamp IS NOT NULL THEN greatest(
                       t.newest_timestamp,
                       (SELECT max(upper(r)) FROM unnest(t.time_ranges) AS r WHERE lower(r) <= t.newest_timestamp),
                       least(k.now, k.newest) - $3::interval,
                       least(c.newest_timestamp, k.now - $4::interval)
                   )
                   WHEN c.last_sync_at <= k.now - $3::interval THEN greatest(c.newest_timestamp, k.now - $3::interval)
                   ELSE c.newest_timestamp
               END AS frontier,
               date_trunc('minute', greatest(w.position, k.now - $4::interval - $5::interval)) AS since
    ) AS f
    LEFT JOIN LATERAL (
        SELECT lower(o.holes) AS first_id,
               upper(t.id_ranges * int8multirange(int8range(NULL, lower(o.holes)))) - 1 AS held_before
        FROM (
            SELECT l.holes * int8multirange(int8range(greatest((
                SELECT last_trade_id FROM candles
                WHERE symbol = w.symbol AND interval_minutes = 1 AND timestamp >= $6::timestamptz
                  AND timestamp < f.since AND last_trade_id IS NOT NULL
                ORDER BY timestamp DESC LIMIT 1
            ), (
                SELECT max(x.id)
                FROM (
                    SELECT timestamp, last_trade_id FROM candles
                    WHERE symbol = w.symbol AND interval_minutes = 1 AND timestamp >= $6::timestamptz
                      AND timestamp < f.since
                    ORDER BY timestamp DESC LIMIT 1
                ) AS last
                JOIN trades x ON x.symbol = w.symbol AND x.timestamp >= $6::timestamptz
                    AND x.timestamp >= last.timestamp AND x.timestamp < last.timestamp + interval '1 minute'
                WHERE last.last_trade_id IS NULL
            )), NULL, '()')) AS holes
            FROM (SELECT ledger_holes(t.id_ranges, t.absent_id_ranges) AS holes OFFSET 0) AS l
            WHERE NOT isempty(l.holes) OFFSET 0
        ) AS o
        WHERE NOT isempty(o.holes)
    ) AS h ON true
    LEFT JOIN LATERAL (
        SELECT CASE WHEN last_trade_id < h.held_before THEN timestamp + interval '1 minute' ELSE timestamp END
            AS minute
        FROM candles
        WHERE symbol = w.symbol AND first_trade_id <= h.held_before AND timestamp >= $6::timestamptz
        ORDER BY first_trade_id DESC LIMIT 1
    ) AS start ON h.first_id IS NOT NULL
"""
"""SQL. Parameters: symbols, readers' positions, grace, patience, length of the candles, oldest time to read, now."""
