-- The counts of data_sync_status without the rows that retention has dropped.

CREATE TABLE dropped_rows (
    relation text   NOT NULL,
    symbol   text   NOT NULL,
    rows     bigint NOT NULL
);
COMMENT ON TABLE dropped_rows IS
    'Rows of dropped partitions or chunks, by symbol, that are still to be subtracted from total_records. Filled in the transaction that drops, and emptied right after it: the ledger is locked by writers, and a transaction that drops must not wait for them.';
GRANT SELECT ON dropped_rows TO kraken_reader, kraken_writer;
COMMENT ON COLUMN data_sync_status.total_records IS 'Rows that are stored now, without those that were dropped.';

-- What was dropped before this was kept: retention drops the oldest first, so then the oldest row is gone.
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM data_sync_status s
        WHERE data_type = 'trades' AND total_records > 0
          AND NOT EXISTS (SELECT FROM trades t WHERE t.timestamp = s.oldest_timestamp AND t.symbol = s.symbol)
    ) THEN
        UPDATE data_sync_status s SET total_records = coalesce(c.rows, 0)
        FROM data_sync_status o
        LEFT JOIN (SELECT symbol, count(*) AS rows FROM trades GROUP BY symbol) c ON c.symbol = o.symbol
        WHERE s.symbol = o.symbol AND s.data_type = 'trades' AND o.data_type = 'trades';
    END IF;
    IF EXISTS (
        SELECT FROM data_sync_status s
        WHERE data_type = 'candles_1m' AND total_records > 0
          AND NOT EXISTS (
              SELECT FROM candles c
              WHERE c.timestamp = s.oldest_timestamp AND c.symbol = s.symbol AND c.interval_minutes = 1
          )
    ) THEN
        UPDATE data_sync_status s SET total_records = coalesce(c.rows, 0)
        FROM data_sync_status o
        LEFT JOIN (
            SELECT symbol, count(*) AS rows FROM candles WHERE interval_minutes = 1 GROUP BY symbol
        ) c ON c.symbol = o.symbol
        WHERE s.symbol = o.symbol AND s.data_type = 'candles_1m' AND o.data_type = 'candles_1m';
    END IF;
END
$$;
