-- migrate: unless continuous_aggregates
-- Each longer candle says where its minutes came from: the weakest source among them.
-- A candle that was materialised before has none until it is refreshed. Views read an unknown source as the weakest.

ALTER TABLE candles_5m_rows ADD COLUMN source candle_source;
COMMENT ON COLUMN candles_5m_rows.source IS 'The weakest source of its minutes. Null: not refreshed since this was kept.';
CREATE OR REPLACE VIEW candles_5m AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap, source
FROM candles_5m_rows
WHERE timestamp < (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_5m')
UNION ALL
SELECT
    symbol,
    date_bin(interval '5 minutes', timestamp, timestamptz '2000-01-03 00:00:00+00') AS timestamp,
    5::smallint AS interval_minutes,
    (array_agg(open ORDER BY timestamp))[1] AS open,
    max(high) AS high,
    min(low) AS low,
    (array_agg(close ORDER BY timestamp DESC))[1] AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
    min(coalesce(source, 'ohlc')) AS source
FROM candles
WHERE interval_minutes = 1
      AND timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_5m')
GROUP BY symbol, date_bin(interval '5 minutes', timestamp, timestamptz '2000-01-03 00:00:00+00');

ALTER TABLE candles_15m_rows ADD COLUMN source candle_source;
COMMENT ON COLUMN candles_15m_rows.source IS 'The weakest source of its minutes. Null: not refreshed since this was kept.';
CREATE OR REPLACE VIEW candles_15m AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap, source
FROM candles_15m_rows
WHERE timestamp < (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_15m')
UNION ALL
SELECT
    symbol,
    date_bin(interval '15 minutes', timestamp, timestamptz '2000-01-03 00:00:00+00') AS timestamp,
    15::smallint AS interval_minutes,
    (array_agg(open ORDER BY timestamp))[1] AS open,
    max(high) AS high,
    min(low) AS low,
    (array_agg(close ORDER BY timestamp DESC))[1] AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
    min(coalesce(source, 'ohlc')) AS source
FROM candles
WHERE interval_minutes = 1
      AND timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_15m')
GROUP BY symbol, date_bin(interval '15 minutes', timestamp, timestamptz '2000-01-03 00:00:00+00');

ALTER TABLE candles_30m_rows ADD COLUMN source candle_source;
COMMENT ON COLUMN candles_30m_rows.source IS 'The weakest source of its minutes. Null: not refreshed since this was kept.';
CREATE OR REPLACE VIEW candles_30m AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap, source
FROM candles_30m_rows
WHERE timestamp < (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_30m')
UNION ALL
SELECT
    symbol,
    date_bin(interval '30 minutes', timestamp, timestamptz '2000-01-03 00:00:00+00') AS timestamp,
    30::smallint AS interval_minutes,
    (array_agg(open ORDER BY timestamp))[1] AS open,
    max(high) AS high,
    min(low) AS low,
    (array_agg(close ORDER BY timestamp DESC))[1] AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
    min(coalesce(source, 'ohlc')) AS source
FROM candles
WHERE interval_minutes = 1
      AND timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_30m')
GROUP BY symbol, date_bin(interval '30 minutes', timestamp, timestamptz '2000-01-03 00:00:00+00');

ALTER TABLE candles_1h_rows ADD COLUMN source candle_source;
COMMENT ON COLUMN candles_1h_rows.source IS 'The weakest source of its minutes. Null: not refreshed since this was kept.';
CREATE OR REPLACE VIEW candles_1h AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap, source
FROM candles_1h_rows
WHERE timestamp < (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_1h')
UNION ALL
SELECT
    symbol,
    date_bin(interval '1 hour', timestamp, timestamptz '2000-01-03 00:00:00+00') AS timestamp,
    60::smallint AS interval_minutes,
    (array_agg(open ORDER BY timestamp))[1] AS open,
    max(high) AS high,
    min(low) AS low,
    (array_agg(close ORDER BY timestamp DESC))[1] AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
    min(coalesce(source, 'ohlc')) AS source
FROM candles
WHERE interval_minutes = 1
      AND timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_1h')
GROUP BY symbol, date_bin(interval '1 hour', timestamp, timestamptz '2000-01-03 00:00:00+00');

ALTER TABLE candles_4h_rows ADD COLUMN source candle_source;
COMMENT ON COLUMN candles_4h_rows.source IS 'The weakest source of its minutes. Null: not refreshed since this was kept.';
CREATE OR REPLACE VIEW candles_4h AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap, source
FROM candles_4h_rows
WHERE timestamp < (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_4h')
UNION ALL
SELECT
    symbol,
    date_bin(interval '4 hours', timestamp, timestamptz '2000-01-03 00:00:00+00') AS timestamp,
    240::smallint AS interval_minutes,
    (array_agg(open ORDER BY timestamp))[1] AS open,
    max(high) AS high,
    min(low) AS low,
    (array_agg(close ORDER BY timestamp DESC))[1] AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
    min(coalesce(source, 'ohlc')) AS source
FROM candles_1h
WHERE timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_4h')
GROUP BY symbol, date_bin(interval '4 hours', timestamp, timestamptz '2000-01-03 00:00:00+00');

ALTER TABLE candles_12h_rows ADD COLUMN source candle_source;
COMMENT ON COLUMN candles_12h_rows.source IS 'The weakest source of its minutes. Null: not refreshed since this was kept.';
CREATE OR REPLACE VIEW candles_12h AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap, source
FROM candles_12h_rows
WHERE timestamp < (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_12h')
UNION ALL
SELECT
    symbol,
    date_bin(interval '12 hours', timestamp, timestamptz '2000-01-03 00:00:00+00') AS timestamp,
    720::smallint AS interval_minutes,
    (array_agg(open ORDER BY timestamp))[1] AS open,
    max(high) AS high,
    min(low) AS low,
    (array_agg(close ORDER BY timestamp DESC))[1] AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
    min(coalesce(source, 'ohlc')) AS source
FROM candles_1h
WHERE timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_12h')
GROUP BY symbol, date_bin(interval '12 hours', timestamp, timestamptz '2000-01-03 00:00:00+00');

ALTER TABLE candles_1d_rows ADD COLUMN source candle_source;
COMMENT ON COLUMN candles_1d_rows.source IS 'The weakest source of its minutes. Null: not refreshed since this was kept.';
CREATE OR REPLACE VIEW candles_1d AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap, source
FROM candles_1d_rows
WHERE timestamp < (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_1d')
UNION ALL
SELECT
    symbol,
    date_bin(interval '1 day', timestamp, timestamptz '2000-01-03 00:00:00+00') AS timestamp,
    1440::smallint AS interval_minutes,
    (array_agg(open ORDER BY timestamp))[1] AS open,
    max(high) AS high,
    min(low) AS low,
    (array_agg(close ORDER BY timestamp DESC))[1] AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
    min(coalesce(source, 'ohlc')) AS source
FROM candles_1h
WHERE timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_1d')
GROUP BY symbol, date_bin(interval '1 day', timestamp, timestamptz '2000-01-03 00:00:00+00');

ALTER TABLE candles_1w_rows ADD COLUMN source candle_source;
COMMENT ON COLUMN candles_1w_rows.source IS 'The weakest source of its minutes. Null: not refreshed since this was kept.';
CREATE OR REPLACE VIEW candles_1w AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap, source
FROM candles_1w_rows
WHERE timestamp < (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_1w')
UNION ALL
SELECT
    symbol,
    date_bin(interval '1 week', timestamp, timestamptz '2000-01-03 00:00:00+00') AS timestamp,
    10080::smallint AS interval_minutes,
    (array_agg(open ORDER BY timestamp))[1] AS open,
    max(high) AS high,
    min(low) AS low,
    (array_agg(close ORDER BY timestamp DESC))[1] AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
    min(coalesce(source, 'ohlc')) AS source
FROM candles_1d
WHERE timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_1w')
GROUP BY symbol, date_bin(interval '1 week', timestamp, timestamptz '2000-01-03 00:00:00+00');

-- All longer candles that minutes can still tell the source of. Where minutes were dropped, candles stay as they are.
UPDATE candle_aggregates SET stale_ranges = stale_ranges + coalesce((
    SELECT range_agg(tstzrange(date_trunc('hour', oldest_timestamp, 'UTC'),
                               date_trunc('hour', newest_timestamp, 'UTC') + interval '1 hour'))
    FROM data_sync_status WHERE data_type = 'candles_1m' AND oldest_timestamp IS NOT NULL
) - coalesce((SELECT ranges FROM dropped_ranges WHERE relation = 'candles'), '{}'), '{}');

CREATE TABLE contested_minutes (
    symbol    text        NOT NULL,
    timestamp timestamptz NOT NULL,
    PRIMARY KEY (symbol, timestamp)
);
COMMENT ON TABLE contested_minutes IS
    'Minutes with stored trades, whose candle is a fuller one of another source. Once they are proven complete, their own candle takes its place.';
GRANT SELECT ON contested_minutes TO kraken_reader, kraken_writer;
GRANT INSERT, DELETE ON contested_minutes TO kraken_writer;

CREATE TABLE corrected_minutes (
    name        text        NOT NULL,
    symbol      text        NOT NULL,
    timestamp   timestamptz NOT NULL,
    trade_count bigint      NOT NULL,
    PRIMARY KEY (name, symbol, timestamp)
);
COMMENT ON TABLE corrected_minutes IS
    'Minutes whose candle lost trades by being corrected, by longer interval, until that interval is refreshed. A longer candle may lose as many.';
COMMENT ON COLUMN corrected_minutes.trade_count IS 'How many trades fewer the candle has now.';
GRANT SELECT ON corrected_minutes TO kraken_reader, kraken_writer;
GRANT INSERT, UPDATE ON corrected_minutes TO kraken_writer;

CREATE TABLE longer_candles (
    symbol           text          NOT NULL,
    interval_minutes smallint      NOT NULL,
    timestamp        timestamptz   NOT NULL,
    open             numeric       NOT NULL,
    high             numeric       NOT NULL,
    low              numeric       NOT NULL,
    close            numeric       NOT NULL,
    volume           numeric       NOT NULL,
    quote_volume     numeric       NOT NULL,
    trade_count      bigint        NOT NULL,
    vwap             numeric       NOT NULL,
    source           candle_source NOT NULL,
    stored_at        timestamptz   NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (symbol, interval_minutes, timestamp)
);
COMMENT ON TABLE longer_candles IS
    'Candles of longer intervals that the exchange or a download gave as such. Readers take them where minutes are missing. Neither a refresh nor retention changes them.';
GRANT SELECT ON longer_candles TO kraken_reader, kraken_writer;
GRANT INSERT, UPDATE ON longer_candles TO kraken_writer;
COMMENT ON COLUMN data_sync_status.data_type IS
    'trades, candles_1m; candles_5m … candles_1440m: the candles of that interval in longer_candles.';
