-- migrate: unless hypertables
-- Trades, candles and external indicators as native range partitions, as wide as the hypertables' chunks.

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
) PARTITION BY RANGE (timestamp);

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
) PARTITION BY RANGE (timestamp);

CREATE TABLE external_indicators (
    timestamp      timestamptz NOT NULL,
    indicator_name text        NOT NULL,
    value          numeric     NOT NULL,
    source         text        NOT NULL,
    PRIMARY KEY (timestamp, indicator_name)
) PARTITION BY RANGE (timestamp);

CREATE INDEX idx_candles_symbol_interval_ts ON candles (symbol, interval_minutes, timestamp DESC);
CREATE INDEX idx_candles_first_trade_id ON candles (symbol, first_trade_id) WHERE first_trade_id IS NOT NULL;
CREATE INDEX idx_external_indicator_name_ts ON external_indicators (indicator_name, timestamp DESC);

CREATE TABLE partition_widths (
    parent text     PRIMARY KEY,
    width  interval NOT NULL
);
INSERT INTO partition_widths VALUES
    ('trades', '1 day'), ('candles', '7 days'), ('external_indicators', '30 days');

CREATE FUNCTION ensure_partitions(parent text, moments timestamptz[]) RETURNS integer
LANGUAGE plpgsql SET timezone = 'UTC' AS $$
DECLARE
    width interval := (SELECT w.width FROM partition_widths w WHERE w.parent = ensure_partitions.parent);
    low timestamptz;
    partition text;
    made integer := 0;
BEGIN
    -- One at a time; held until the end of the transaction, which is short: writers call this on its own.
    PERFORM pg_advisory_xact_lock(hashtext('ensure_partitions'));
    FOR low IN
        SELECT DISTINCT date_bin(width, m, timestamptz '2000-01-03 00:00:00+00') FROM unnest(moments) m
    LOOP
        partition := parent || '_' || to_char(low, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(quote_ident(partition)) IS NOT NULL;
        -- Attaching takes a weaker lock than CREATE TABLE … PARTITION OF: readers and writers go on.
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       parent, partition, low, low + width);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
COMMENT ON FUNCTION ensure_partitions IS 'Makes the partitions that hold these moments, where they are missing.';
