-- The marks of stale time become rows: a value that holds all of them is written whole with every change.

CREATE TABLE stale_hours (
    symbol     text        NOT NULL,
    start_time timestamptz NOT NULL,
    end_time   timestamptz NOT NULL,
    PRIMARY KEY (symbol, start_time, end_time),
    CHECK (start_time < end_time)
);
COMMENT ON TABLE stale_hours IS
    'Whole hours in which one-minute candles changed, and which no refresh of the longer intervals has taken up yet.';

CREATE TABLE stale_buckets (
    name       text        NOT NULL,
    start_time timestamptz NOT NULL,
    end_time   timestamptz NOT NULL,
    PRIMARY KEY (name, start_time, end_time),
    CHECK (start_time < end_time)
);
COMMENT ON TABLE stale_buckets IS
    'Time that a refresh has taken up, and in which the candles of a longer interval are not materialised yet. A row lies within 13 weeks counted from 2000-01-03; rows may overlap.';

-- Rows come and go; of few rows, many versions would be left before the defaults vacuum them.
ALTER TABLE stale_hours SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE stale_buckets SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

INSERT INTO stale_hours (symbol, start_time, end_time)
SELECT symbol, lower(stale), upper(stale)
FROM data_sync_status CROSS JOIN unnest(stale_ranges) AS stale
WHERE data_type = 'candles_1m';

INSERT INTO stale_buckets (name, start_time, end_time)
SELECT name, greatest(lower(stale), slice), least(upper(stale), slice + interval '2184 hours')
FROM candle_aggregates CROSS JOIN unnest(stale_ranges) AS stale
CROSS JOIN generate_series(
    date_bin('2184 hours', lower(stale), timestamptz '2000-01-03 00:00:00+00'),
    upper(stale) - interval '1 microsecond', interval '2184 hours'
) AS slice;

ALTER TABLE data_sync_status DROP COLUMN stale_ranges;
ALTER TABLE candle_aggregates DROP COLUMN stale_ranges;

GRANT SELECT ON stale_hours, stale_buckets TO kraken_reader, kraken_writer;
GRANT INSERT ON stale_hours TO kraken_writer;
