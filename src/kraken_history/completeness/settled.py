"""Up to when the trades of symbols are settled: no earlier trade is missing or still expected.

Unless ids are missing, the ledger alone answers this. Otherwise only those holes matter that reach past the reader's
position: the ledger has their times. `start` is the minute in which the first of them begins.
"""

SETTLED = """
    SELECT w.symbol, k.now,
           CASE WHEN h.start IS NULL THEN f.frontier
                ELSE least(f.frontier, greatest(h.start, k.now - $4::interval)) END AS until,
           c.oldest_timestamp AS oldest,
           c.last_sync_at AS stored_at,
           t.newest_timestamp IS NOT NULL AS has_trades
    FROM (
        SELECT coalesce($6::timestamptz, now()) AS now, max(newest_timestamp) AS newest
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
        SELECT date_trunc('minute', min(
            CASE WHEN u.after_time IS NULL THEN '-infinity' ELSE least(u.after_time, u.before_time) END
        )) AS start
        FROM unheld_ids u
        WHERE u.symbol = w.symbol AND u.missing > 0 AND u.high_time >= f.since
          AND u.level = ANY ('{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}'::smallint[])
    ) AS h ON true
"""
"""SQL. Parameters: symbols, readers' positions, grace, patience, length of the candles, now."""
