-- migrate: if continuous_aggregates
-- Compression, which TimescaleDB's Community edition has where it has continuous aggregates.

ALTER TABLE trades SET (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'symbol',
    timescaledb.compress_orderby = 'timestamp DESC, id DESC'
);
SELECT add_compression_policy('trades', interval '7 days');

ALTER TABLE candles SET (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'symbol, interval_minutes',
    timescaledb.compress_orderby = 'timestamp DESC'
);
SELECT add_compression_policy('candles', interval '30 days');
