-- Trades that Kraken showed, and that are not stored: refused ones, and those that REST cannot show.

CREATE TABLE refused_trades (
    symbol     text        NOT NULL,
    id         bigint      NOT NULL,
    timestamp  timestamptz,
    reason     text        NOT NULL,
    row        text        NOT NULL DEFAULT '',
    first_seen timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, id)
);
COMMENT ON TABLE refused_trades IS
    'Trades with a value that is not valid. Their ids are absent in the ledger; storing the trade removes the row.';
COMMENT ON COLUMN refused_trades.timestamp IS 'Null: it could not be read, or is impossible.';
COMMENT ON COLUMN refused_trades.row IS 'The row as it came, cut to 2,000 characters.';

CREATE TABLE unreachable_trades (
    symbol     text           NOT NULL,
    timestamp  timestamptz    NOT NULL,
    ids        int8multirange NOT NULL,
    first_seen timestamptz    NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, timestamp)
);
COMMENT ON TABLE unreachable_trades IS
    'Ids of trades of one instant of which Kraken has more than a page: REST shows only the first. Unless they come over the WebSocket, they are missing, and are not requested again.';

CREATE TABLE reused_ids (
    symbol     text           PRIMARY KEY,
    ids        int8multirange NOT NULL,
    first_seen timestamptz    NOT NULL DEFAULT now(),
    last_seen  timestamptz    NOT NULL DEFAULT now()
);
COMMENT ON TABLE reused_ids IS
    'Ids of stored trades under which Kraken sent another trade, with another price, volume, side or time. The first one is kept.';

GRANT SELECT ON refused_trades, unreachable_trades, reused_ids TO kraken_reader, kraken_writer;
GRANT INSERT, UPDATE, DELETE ON refused_trades TO kraken_writer;
GRANT INSERT, UPDATE ON unreachable_trades, reused_ids TO kraken_writer;
