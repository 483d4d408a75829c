-- migrate: if hypertables
-- Trades, candles and external indicators as hypertables.

CREATE TABLE trades (
    id         bigint      NOT NULL,
    symbol     text        NOT NULL,
    timestamp  timestamptz NOT NULL,
    price      numeric     NOT NULL,
    volume     numeric     NOT NULL,
    side       text        NOT NULL CHECK (side IN ('buy', 'sell')),
    order_type text        NOT NULL,
    misc       text        NOT NULL,
    PRIMARY KEY (timestamp, symbol, id)
);
SELECT create_hypertable('trades', 'timestamp', chunk_time_interval => interval '1 day',
                         create_default_indexes => false);

CREATE TABLE candles (
    symbol           text          NOT NULL,
    timestamp        timestamptz   NOT NULL,
    interval_minutes smallint      NOT NULL,
    open             numeric       NOT NULL,
    high             numeric       NOT NULL,
    low              numeric       NOT NULL,
    close            numeric       NOT NULL,
    volume           numeric       NOT NULL,
    quote_volume     numeric       NOT NULL,
    trade_count      integer       NOT NULL,
    vwap             numeric       NOT NULL,
    source           candle_source NOT NULL,
    first_trade_id   bigint,
    last_trade_id    bigint,
    PRIMARY KEY (timestamp, symbol, interval_minutes)
);
SELECT create_hypertable('candles', 'timestamp', chunk_time_interval => interval '7 days',
                         create_default_indexes => false);

CREATE TABLE external_indicators (
    timestamp      timestamptz NOT NULL,
    indicator_name text        NOT NULL,
    value          numeric     NOT NULL,
    source         text        NOT NULL,
    PRIMARY KEY (timestamp, indicator_name)
);
SELECT create_hypertable('external_indicators', 'timestamp', chunk_time_interval => interval '30 days',
                         create_default_indexes => false);

CREATE INDEX idx_candles_symbol_interval_ts ON candles (symbol, interval_minutes, timestamp DESC);
CREATE INDEX idx_candles_first_trade_id ON candles (symbol, first_trade_id) WHERE first_trade_id IS NOT NULL;
CREATE INDEX idx_external_indicator_name_ts ON external_indicators (indicator_name, timestamp DESC);

CREATE FUNCTION ensure_partitions(parent text, moments timestamptz[]) RETURNS integer
LANGUAGE sql IMMUTABLE AS 'SELECT 0';
COMMENT ON FUNCTION ensure_partitions IS 'Nothing to do: a hypertable makes its chunks itself.';
