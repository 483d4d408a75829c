-- migrate: unless continuous_aggregates
-- What each longer interval still has to refresh.

ALTER TABLE candle_aggregates
    ADD COLUMN stale_ranges tstzmultirange NOT NULL DEFAULT '{}',
    ADD COLUMN refreshed_at timestamptz;
COMMENT ON COLUMN candle_aggregates.stale_ranges IS
    'Time whose source changed since this interval was refreshed; that of a bucket which is still open stays.';
COMMENT ON COLUMN candle_aggregates.refreshed_at IS 'Null until the first refresh.';

-- What is there already was never refreshed.
UPDATE candle_aggregates SET stale_ranges = (
    SELECT coalesce(range_agg(tstzrange(date_trunc('hour', oldest_timestamp, 'UTC'),
                                        date_trunc('hour', newest_timestamp, 'UTC') + interval '1 hour')), '{}')
    FROM data_sync_status WHERE data_type = 'candles_1m' AND oldest_timestamp IS NOT NULL
);

ALTER TABLE data_sync_status DROP COLUMN refreshing_ranges;

-- A refresh looks at all symbols of a window.
CREATE INDEX candles_5m_rows_timestamp ON candles_5m_rows (timestamp);
CREATE INDEX candles_15m_rows_timestamp ON candles_15m_rows (timestamp);
CREATE INDEX candles_30m_rows_timestamp ON candles_30m_rows (timestamp);
CREATE INDEX candles_1h_rows_timestamp ON candles_1h_rows (timestamp);
CREATE INDEX candles_4h_rows_timestamp ON candles_4h_rows (timestamp);
CREATE INDEX candles_12h_rows_timestamp ON candles_12h_rows (timestamp);
CREATE INDEX candles_1d_rows_timestamp ON candles_1d_rows (timestamp);
CREATE INDEX candles_1w_rows_timestamp ON candles_1w_rows (timestamp);
