-- Which minutes of each past day have a candle, and of which source: so that coverage need not read the candles.

CREATE TABLE minute_maps (
    symbol   text        NOT NULL,
    day      timestamptz NOT NULL,
    built    bit varying(1440),
    sent     bit varying(1440),
    imported bit varying(1440),
    PRIMARY KEY (symbol, day)
);
COMMENT ON TABLE minute_maps IS
    'A bit per minute of a day that ended: whether a one-minute candle is stored. Null: no minute has one. A single 1: all have. Every transaction that changes candles of a day deletes its row; the worker makes it anew. A day without a row is read from the candles.';
COMMENT ON COLUMN minute_maps.day IS 'Its start, in UTC.';
COMMENT ON COLUMN minute_maps.built IS 'Minutes with a candle of source trades.';
COMMENT ON COLUMN minute_maps.sent IS 'Minutes with a candle of source ohlc.';
COMMENT ON COLUMN minute_maps.imported IS 'Minutes with a candle of source csv.';

GRANT SELECT ON minute_maps TO kraken_reader, kraken_writer;
GRANT INSERT, DELETE ON minute_maps TO kraken_writer;
