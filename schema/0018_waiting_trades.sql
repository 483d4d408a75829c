-- Trades that are not stored: those whose ids leap absurdly far wait until Kraken's REST API confirms them, and those
-- that a person removed are kept beside.

CREATE TABLE waiting_trades (
    symbol     text        NOT NULL,
    id         bigint      NOT NULL,
    timestamp  timestamptz NOT NULL,
    price      numeric     NOT NULL,
    volume     numeric     NOT NULL,
    side       text        NOT NULL,
    order_type text        NOT NULL,
    misc       text        NOT NULL DEFAULT '',
    first_seen timestamptz NOT NULL DEFAULT now(),
    unknown_at timestamptz,
    PRIMARY KEY (symbol, id)
);
COMMENT ON TABLE waiting_trades IS
    'Trades whose ids leap absurdly far from the stored ones. They are not in the ledger. Confirmed, they are stored; unknown to Kraken twice, they become dead letters.';
COMMENT ON COLUMN waiting_trades.unknown_at IS 'When a page that must show the trade did not; null before.';

CREATE TABLE removed_trades (
    symbol     text        NOT NULL,
    id         bigint      NOT NULL,
    timestamp  timestamptz NOT NULL,
    price      numeric     NOT NULL,
    volume     numeric     NOT NULL,
    side       text        NOT NULL,
    order_type text        NOT NULL,
    misc       text        NOT NULL DEFAULT '',
    reason     text        NOT NULL,
    removed_by text        NOT NULL DEFAULT session_user,
    removed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE removed_trades IS 'Trades that `kraken-history remove-trade` removed, as they were stored.';

GRANT SELECT ON removed_trades TO kraken_reader, kraken_writer;
GRANT SELECT ON waiting_trades TO kraken_reader, kraken_writer;
GRANT INSERT, UPDATE, DELETE ON waiting_trades TO kraken_writer;
