-- What is the same on every server: the ledger, and the results of backtests.

CREATE TYPE candle_source AS ENUM ('ohlc', 'csv', 'trades');
COMMENT ON TYPE candle_source IS
    'Where a candle came from, weakest first: of two candles with the same trade_count the stronger source wins.';

CREATE TABLE data_sync_status (
    symbol            text           NOT NULL,
    data_type         text           NOT NULL,
    oldest_timestamp  timestamptz,
    newest_timestamp  timestamptz,
    last_sync_at      timestamptz    NOT NULL DEFAULT now(),
    last_kraken_since bigint,
    total_records     bigint         NOT NULL DEFAULT 0,
    id_ranges         int8multirange NOT NULL DEFAULT '{}',
    absent_id_ranges  int8multirange NOT NULL DEFAULT '{}',
    time_ranges       tstzmultirange NOT NULL DEFAULT '{}',
    PRIMARY KEY (symbol, data_type)
);
COMMENT ON COLUMN data_sync_status.data_type IS 'trades, candles_1m';
COMMENT ON COLUMN data_sync_status.id_ranges IS 'Trade ids that are stored; a hole inside is a missing trade.';
COMMENT ON COLUMN data_sync_status.absent_id_ranges IS 'Trade ids that the exchange was shown not to have.';
COMMENT ON COLUMN data_sync_status.time_ranges IS 'For candles: the time that is covered, quiet minutes included.';
COMMENT ON COLUMN data_sync_status.last_kraken_since IS 'Cursor of REST Trades in nanoseconds, to go on from.';

CREATE FUNCTION ledger_holes(held int8multirange, absent int8multirange) RETURNS int8multirange
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT int8multirange(range_merge(held)) - held - absent
$$;
COMMENT ON FUNCTION ledger_holes IS 'The ids between the lowest and the highest held that are neither held nor absent.';

CREATE TABLE backtest_runs (
    id            uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    strategy_name text        NOT NULL,
    symbols       text[]      NOT NULL,
    start_time    timestamptz NOT NULL,
    end_time      timestamptz NOT NULL,
    parameters    jsonb       NOT NULL,
    metrics       jsonb       NOT NULL,
    trades        jsonb,
    equity_curve  jsonb,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_backtest_strategy ON backtest_runs (strategy_name, created_at DESC);
