-- migrate: if continuous_aggregates
-- Each longer candle says where its minutes came from: the weakest source among them.
-- A candle that was materialised before has none until it is refreshed.
--
-- TimescaleDB adds an aggregate to a continuous aggregate since 2.28. Before that, each is made again, and its
-- materialised candles are copied: the minutes of some may have been dropped. Until the first refresh, a view that was
-- made again shows only what it can aggregate from minutes; nothing is lost meanwhile.

DO $migration$
DECLARE
    can_add_columns CONSTANT boolean := (
        SELECT (string_to_array(substring(extversion FROM '^\d+\.\d+'), '.'))::integer[] >= ARRAY[2, 28]
        FROM pg_extension WHERE extname = 'timescaledb'
    );
    names CONSTANT text[] := ARRAY['candles_5m', 'candles_15m', 'candles_30m', 'candles_1h',
                                   'candles_4h', 'candles_12h', 'candles_1d', 'candles_1w'];
    name text;
    kept text;
BEGIN
    IF can_add_columns THEN
        FOREACH name IN ARRAY names LOOP
            EXECUTE format(
                'ALTER MATERIALIZED VIEW %I ADD COLUMN source candle_source'
                ' GENERATED ALWAYS AS (min(coalesce(source, ''ohlc''))) STORED', name
            );
        END LOOP;
        RETURN;
    END IF;

    -- A policy that somebody stopped stays stopped; the others start with the first refresh.
    UPDATE candle_aggregates AS a SET refreshed_at = NULL
    FROM timescaledb_information.continuous_aggregates AS c
    JOIN timescaledb_information.jobs AS j
      ON j.proc_name = 'policy_refresh_continuous_aggregate'
     AND (j.hypertable_schema, j.hypertable_name) IN (
         (c.view_schema, c.view_name), (c.materialization_hypertable_schema, c.materialization_hypertable_name)
     )
    WHERE c.view_schema = current_schema AND c.view_name = a.name AND j.scheduled;

    FOR i IN REVERSE array_length(names, 1)..1 LOOP
        SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name) INTO STRICT kept
        FROM timescaledb_information.continuous_aggregates
        WHERE view_schema = current_schema AND view_name = names[i];
        EXECUTE format('CREATE TEMPORARY TABLE %I ON COMMIT DROP AS SELECT * FROM %s', 'kept_' || names[i], kept);
        EXECUTE format('DROP MATERIALIZED VIEW %I', names[i]);
    END LOOP;

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
        coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
        min(coalesce(source, 'ohlc')) AS source
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
        coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
        min(coalesce(source, 'ohlc')) AS source
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
        coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
        min(coalesce(source, 'ohlc')) AS source
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
        coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
        min(coalesce(source, 'ohlc')) AS source
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
        coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
        min(coalesce(source, 'ohlc')) AS source
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
        coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
        min(coalesce(source, 'ohlc')) AS source
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
        coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
        min(coalesce(source, 'ohlc')) AS source
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
        coalesce(div(sum(quote_volume) * 10000000000, nullif(sum(volume), 0)) * 0.0000000001, 0) AS vwap,
        min(coalesce(source, 'ohlc')) AS source
    FROM candles_1d
    GROUP BY symbol, time_bucket(interval '1 week', timestamp)
    WITH NO DATA;

    FOREACH name IN ARRAY names LOOP
        SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name) INTO STRICT kept
        FROM timescaledb_information.continuous_aggregates
        WHERE view_schema = current_schema AND view_name = name;
        EXECUTE format(
            'INSERT INTO %s (symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume,'
            ' trade_count, vwap) SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume,'
            ' quote_volume, trade_count, vwap FROM %I', kept, 'kept_' || name
        );
        EXECUTE format('GRANT SELECT ON %I TO kraken_reader, kraken_writer', name);
    END LOOP;
    PERFORM alter_job(add_continuous_aggregate_policy(
        'candles_5m', start_offset => interval '1 hour', end_offset => interval '5 minutes',
        schedule_interval => interval '5 minutes'), scheduled => false);
    PERFORM alter_job(add_continuous_aggregate_policy(
        'candles_15m', start_offset => interval '2 hours', end_offset => interval '15 minutes',
        schedule_interval => interval '15 minutes'), scheduled => false);
    PERFORM alter_job(add_continuous_aggregate_policy(
        'candles_30m', start_offset => interval '3 hours', end_offset => interval '30 minutes',
        schedule_interval => interval '30 minutes'), scheduled => false);
    PERFORM alter_job(add_continuous_aggregate_policy(
        'candles_1h', start_offset => interval '6 hours', end_offset => interval '1 hour',
        schedule_interval => interval '1 hour'), scheduled => false);
    PERFORM alter_job(add_continuous_aggregate_policy(
        'candles_4h', start_offset => interval '1 day', end_offset => interval '4 hours',
        schedule_interval => interval '4 hours'), scheduled => false);
    PERFORM alter_job(add_continuous_aggregate_policy(
        'candles_12h', start_offset => interval '2 days', end_offset => interval '12 hours',
        schedule_interval => interval '12 hours'), scheduled => false);
    PERFORM alter_job(add_continuous_aggregate_policy(
        'candles_1d', start_offset => interval '7 days', end_offset => interval '1 day',
        schedule_interval => interval '1 day'), scheduled => false);
    PERFORM alter_job(add_continuous_aggregate_policy(
        'candles_1w', start_offset => interval '30 days', end_offset => interval '1 week',
        schedule_interval => interval '1 week'), scheduled => false);
END
$migration$;

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
