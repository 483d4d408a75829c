-- migrate: if continuous_aggregates
-- What each longer interval still has to refresh, and the refresh policies.

CREATE TABLE candle_aggregates (
    name         text           PRIMARY KEY,
    stale_ranges tstzmultirange NOT NULL DEFAULT '{}',
    refreshed_at timestamptz
);
COMMENT ON COLUMN candle_aggregates.stale_ranges IS
    'Time whose source changed since this interval was refreshed; that of a bucket which is still open stays.';
COMMENT ON COLUMN candle_aggregates.refreshed_at IS 'Null until the first refresh, which also starts the policy.';

-- What is there already was never refreshed.
INSERT INTO candle_aggregates (name, stale_ranges)
SELECT name, (
    SELECT coalesce(range_agg(tstzrange(date_trunc('hour', oldest_timestamp, 'UTC'),
                                        date_trunc('hour', newest_timestamp, 'UTC') + interval '1 hour')), '{}')
    FROM data_sync_status WHERE data_type = 'candles_1m' AND oldest_timestamp IS NOT NULL
)
FROM unnest(ARRAY['candles_5m', 'candles_15m', 'candles_30m', 'candles_1h',
                  'candles_4h', 'candles_12h', 'candles_1d', 'candles_1w']) AS name;

ALTER TABLE data_sync_status DROP COLUMN refreshing_ranges;

-- A policy moves the watermark to the end of its window, and what was never refreshed before that would no longer
-- be read. So the policies wait for the first refresh of their interval: see docs/decisions.
SELECT alter_job(add_continuous_aggregate_policy(
    'candles_5m', start_offset => interval '1 hour', end_offset => interval '5 minutes',
    schedule_interval => interval '5 minutes'), scheduled => false);
SELECT alter_job(add_continuous_aggregate_policy(
    'candles_15m', start_offset => interval '2 hours', end_offset => interval '15 minutes',
    schedule_interval => interval '15 minutes'), scheduled => false);
SELECT alter_job(add_continuous_aggregate_policy(
    'candles_30m', start_offset => interval '3 hours', end_offset => interval '30 minutes',
    schedule_interval => interval '30 minutes'), scheduled => false);
SELECT alter_job(add_continuous_aggregate_policy(
    'candles_1h', start_offset => interval '6 hours', end_offset => interval '1 hour',
    schedule_interval => interval '1 hour'), scheduled => false);
SELECT alter_job(add_continuous_aggregate_policy(
    'candles_4h', start_offset => interval '1 day', end_offset => interval '4 hours',
    schedule_interval => interval '4 hours'), scheduled => false);
SELECT alter_job(add_continuous_aggregate_policy(
    'candles_12h', start_offset => interval '2 days', end_offset => interval '12 hours',
    schedule_interval => interval '12 hours'), scheduled => false);
SELECT alter_job(add_continuous_aggregate_policy(
    'candles_1d', start_offset => interval '7 days', end_offset => interval '1 day',
    schedule_interval => interval '1 day'), scheduled => false);
SELECT alter_job(add_continuous_aggregate_policy(
    'candles_1w', start_offset => interval '30 days', end_offset => interval '1 week',
    schedule_interval => interval '1 week'), scheduled => false);
