-- migrate: if continuous_aggregates
-- The eight longer intervals as continuous aggregates: 4h, 12h and 1d from 1h, 1w from 1d, weeks from Monday.
-- Real-time: what is not materialised yet is aggregated on reading.

CREATE MATERIALIZED VIEW candles_5m
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    symbol,
    time_bucket(interval '5 minutes', timestamp) AS timestamp,
    5::smallint AS interval_minutes,
    first(open, timestamp) AS open,
    max(high) AS high,
    min(low) AS low,
    last(close, timestamp) AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles
WHERE interval_minutes = 1
GROUP BY symbol, time_bucket(interval '5 minutes', timestamp)
WITH NO DATA;

CREATE MATERIALIZED VIEW candles_15m
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    symbol,
    time_bucket(interval '15 minutes', timestamp) AS timestamp,
    15::smallint AS interval_minutes,
    first(open, timestamp) AS open,
    max(high) AS high,
    min(low) AS low,
    last(close, timestamp) AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles
WHERE interval_minutes = 1
GROUP BY symbol, time_bucket(interval '15 minutes', timestamp)
WITH NO DATA;

CREATE MATERIALIZED VIEW candles_30m
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    symbol,
    time_bucket(interval '30 minutes', timestamp) AS timestamp,
    30::smallint AS interval_minutes,
    first(open, timestamp) AS open,
    max(high) AS high,
    min(low) AS low,
    last(close, timestamp) AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles
WHERE interval_minutes = 1
GROUP BY symbol, time_bucket(interval '30 minutes', timestamp)
WITH NO DATA;

CREATE MATERIALIZED VIEW candles_1h
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    symbol,
    time_bucket(interval '1 hour', timestamp) AS timestamp,
    60::smallint AS interval_minutes,
    first(open, timestamp) AS open,
    max(high) AS high,
    min(low) AS low,
    last(close, timestamp) AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles
WHERE interval_minutes = 1
GROUP BY symbol, time_bucket(interval '1 hour', timestamp)
WITH NO DATA;

CREATE MATERIALIZED VIEW candles_4h
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    symbol,
    time_bucket(interval '4 hours', timestamp) AS timestamp,
    240::smallint AS interval_minutes,
    first(open, timestamp) AS open,
    max(high) AS high,
    min(low) AS low,
    last(close, timestamp) AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles_1h
GROUP BY symbol, time_bucket(interval '4 hours', timestamp)
WITH NO DATA;

CREATE MATERIALIZED VIEW candles_12h
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    symbol,
    time_bucket(interval '12 hours', timestamp) AS timestamp,
    720::smallint AS interval_minutes,
    first(open, timestamp) AS open,
    max(high) AS high,
    min(low) AS low,
    last(close, timestamp) AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles_1h
GROUP BY symbol, time_bucket(interval '12 hours', timestamp)
WITH NO DATA;

CREATE MATERIALIZED VIEW candles_1d
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    symbol,
    time_bucket(interval '1 day', timestamp) AS timestamp,
    1440::smallint AS interval_minutes,
    first(open, timestamp) AS open,
    max(high) AS high,
    min(low) AS low,
    last(close, timestamp) AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles_1h
GROUP BY symbol, time_bucket(interval '1 day', timestamp)
WITH NO DATA;

CREATE MATERIALIZED VIEW candles_1w
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    symbol,
    time_bucket(interval '1 week', timestamp) AS timestamp,
    10080::smallint AS interval_minutes,
    first(open, timestamp) AS open,
    max(high) AS high,
    min(low) AS low,
    last(close, timestamp) AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap
FROM candles_1d
GROUP BY symbol, time_bucket(interval '1 week', timestamp)
WITH NO DATA;
