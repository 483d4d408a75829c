-- migrate: unless continuous_aggregates
-- The eight longer intervals without continuous aggregates: a table each, kept by the refresh job, behind a view
-- that aggregates on reading what is not materialised yet. Same names, columns and values as with them.

CREATE TABLE candle_aggregates (
    name               text        PRIMARY KEY,
    materialized_until timestamptz NOT NULL DEFAULT '-infinity'
);
COMMENT ON COLUMN candle_aggregates.materialized_until IS
    'Buckets before this come from the table, later ones from the source; always the start of a bucket.';

INSERT INTO candle_aggregates (name) VALUES ('candles_5m');
CREATE TABLE candles_5m_rows (
    symbol           text        NOT NULL,
    timestamp        timestamptz NOT NULL,
    interval_minutes smallint    NOT NULL DEFAULT 5,
    open             numeric     NOT NULL,
    high             numeric     NOT NULL,
    low              numeric     NOT NULL,
    close            numeric     NOT NULL,
    volume           numeric     NOT NULL,
    quote_volume     numeric     NOT NULL,
    trade_count      bigint      NOT NULL,
    vwap             numeric     NOT NULL,
    PRIMARY KEY (symbol, timestamp)
);
CREATE VIEW candles_5m AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap
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
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles
WHERE interval_minutes = 1
      AND timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_5m')
GROUP BY symbol, date_bin(interval '5 minutes', timestamp, timestamptz '2000-01-03 00:00:00+00');

INSERT INTO candle_aggregates (name) VALUES ('candles_15m');
CREATE TABLE candles_15m_rows (
    symbol           text        NOT NULL,
    timestamp        timestamptz NOT NULL,
    interval_minutes smallint    NOT NULL DEFAULT 15,
    open             numeric     NOT NULL,
    high             numeric     NOT NULL,
    low              numeric     NOT NULL,
    close            numeric     NOT NULL,
    volume           numeric     NOT NULL,
    quote_volume     numeric     NOT NULL,
    trade_count      bigint      NOT NULL,
    vwap             numeric     NOT NULL,
    PRIMARY KEY (symbol, timestamp)
);
CREATE VIEW candles_15m AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap
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
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles
WHERE interval_minutes = 1
      AND timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_15m')
GROUP BY symbol, date_bin(interval '15 minutes', timestamp, timestamptz '2000-01-03 00:00:00+00');

INSERT INTO candle_aggregates (name) VALUES ('candles_30m');
CREATE TABLE candles_30m_rows (
    symbol           text        NOT NULL,
    timestamp        timestamptz NOT NULL,
    interval_minutes smallint    NOT NULL DEFAULT 30,
    open             numeric     NOT NULL,
    high             numeric     NOT NULL,
    low              numeric     NOT NULL,
    close            numeric     NOT NULL,
    volume           numeric     NOT NULL,
    quote_volume     numeric     NOT NULL,
    trade_count      bigint      NOT NULL,
    vwap             numeric     NOT NULL,
    PRIMARY KEY (symbol, timestamp)
);
CREATE VIEW candles_30m AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap
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
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles
WHERE interval_minutes = 1
      AND timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_30m')
GROUP BY symbol, date_bin(interval '30 minutes', timestamp, timestamptz '2000-01-03 00:00:00+00');

INSERT INTO candle_aggregates (name) VALUES ('candles_1h');
CREATE TABLE candles_1h_rows (
    symbol           text        NOT NULL,
    timestamp        timestamptz NOT NULL,
    interval_minutes smallint    NOT NULL DEFAULT 60,
    open             numeric     NOT NULL,
    high             numeric     NOT NULL,
    low              numeric     NOT NULL,
    close            numeric     NOT NULL,
    volume           numeric     NOT NULL,
    quote_volume     numeric     NOT NULL,
    trade_count      bigint      NOT NULL,
    vwap             numeric     NOT NULL,
    PRIMARY KEY (symbol, timestamp)
);
CREATE VIEW candles_1h AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap
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
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles
WHERE interval_minutes = 1
      AND timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_1h')
GROUP BY symbol, date_bin(interval '1 hour', timestamp, timestamptz '2000-01-03 00:00:00+00');

INSERT INTO candle_aggregates (name) VALUES ('candles_4h');
CREATE TABLE candles_4h_rows (
    symbol           text        NOT NULL,
    timestamp        timestamptz NOT NULL,
    interval_minutes smallint    NOT NULL DEFAULT 240,
    open             numeric     NOT NULL,
    high             numeric     NOT NULL,
    low              numeric     NOT NULL,
    close            numeric     NOT NULL,
    volume           numeric     NOT NULL,
    quote_volume     numeric     NOT NULL,
    trade_count      bigint      NOT NULL,
    vwap             numeric     NOT NULL,
    PRIMARY KEY (symbol, timestamp)
);
CREATE VIEW candles_4h AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap
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
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles_1h
WHERE timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_4h')
GROUP BY symbol, date_bin(interval '4 hours', timestamp, timestamptz '2000-01-03 00:00:00+00');

INSERT INTO candle_aggregates (name) VALUES ('candles_12h');
CREATE TABLE candles_12h_rows (
    symbol           text        NOT NULL,
    timestamp        timestamptz NOT NULL,
    interval_minutes smallint    NOT NULL DEFAULT 720,
    open             numeric     NOT NULL,
    high             numeric     NOT NULL,
    low              numeric     NOT NULL,
    close            numeric     NOT NULL,
    volume           numeric     NOT NULL,
    quote_volume     numeric     NOT NULL,
    trade_count      bigint      NOT NULL,
    vwap             numeric     NOT NULL,
    PRIMARY KEY (symbol, timestamp)
);
CREATE VIEW candles_12h AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap
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
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles_1h
WHERE timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_12h')
GROUP BY symbol, date_bin(interval '12 hours', timestamp, timestamptz '2000-01-03 00:00:00+00');

INSERT INTO candle_aggregates (name) VALUES ('candles_1d');
CREATE TABLE candles_1d_rows (
    symbol           text        NOT NULL,
    timestamp        timestamptz NOT NULL,
    interval_minutes smallint    NOT NULL DEFAULT 1440,
    open             numeric     NOT NULL,
    high             numeric     NOT NULL,
    low              numeric     NOT NULL,
    close            numeric     NOT NULL,
    volume           numeric     NOT NULL,
    quote_volume     numeric     NOT NULL,
    trade_count      bigint      NOT NULL,
    vwap             numeric     NOT NULL,
    PRIMARY KEY (symbol, timestamp)
);
CREATE VIEW candles_1d AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap
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
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles_1h
WHERE timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_1d')
GROUP BY symbol, date_bin(interval '1 day', timestamp, timestamptz '2000-01-03 00:00:00+00');

INSERT INTO candle_aggregates (name) VALUES ('candles_1w');
CREATE TABLE candles_1w_rows (
    symbol           text        NOT NULL,
    timestamp        timestamptz NOT NULL,
    interval_minutes smallint    NOT NULL DEFAULT 10080,
    open             numeric     NOT NULL,
    high             numeric     NOT NULL,
    low              numeric     NOT NULL,
    close            numeric     NOT NULL,
    volume           numeric     NOT NULL,
    quote_volume     numeric     NOT NULL,
    trade_count      bigint      NOT NULL,
    vwap             numeric     NOT NULL,
    PRIMARY KEY (symbol, timestamp)
);
CREATE VIEW candles_1w AS
SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap
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
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles_1d
WHERE timestamp >= (SELECT materialized_until FROM candle_aggregates WHERE name = 'candles_1w')
GROUP BY symbol, date_bin(interval '1 week', timestamp, timestamptz '2000-01-03 00:00:00+00');
