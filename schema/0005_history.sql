-- The state of the jobs that fill history: what is to be refreshed, backfills, and evidence of absence.

ALTER TABLE data_sync_status
    ADD COLUMN stale_ranges      tstzmultirange NOT NULL DEFAULT '{}',
    ADD COLUMN refreshing_ranges tstzmultirange NOT NULL DEFAULT '{}';
COMMENT ON COLUMN data_sync_status.stale_ranges IS
    'For candles: time, in whole hours, whose one-minute candles changed since the longer intervals were refreshed.';
COMMENT ON COLUMN data_sync_status.refreshing_ranges IS
    'For candles: stale time that a refresh has taken up; still here, that refresh has not ended well.';

CREATE TYPE backfill_state AS ENUM ('running', 'paused', 'done', 'cancelled', 'failed');
CREATE TABLE backfills (
    symbol       text           PRIMARY KEY,
    target_start timestamptz,
    target_end   timestamptz    NOT NULL,
    next_since   bigint         NOT NULL,
    state        backfill_state NOT NULL DEFAULT 'running',
    reason       text           NOT NULL DEFAULT '',
    pages        bigint         NOT NULL DEFAULT 0,
    trades       bigint         NOT NULL DEFAULT 0,
    unidentified bigint         NOT NULL DEFAULT 0,
    failures     integer        NOT NULL DEFAULT 0,
    run          bigint         NOT NULL DEFAULT 0,
    lease_until  timestamptz,
    created_at   timestamptz    NOT NULL DEFAULT now(),
    updated_at   timestamptz    NOT NULL DEFAULT now()
);
COMMENT ON COLUMN backfills.target_start IS 'Null: the beginning of the pair.';
COMMENT ON COLUMN backfills.next_since IS 'Cursor of REST Trades, in nanoseconds; moves in the transaction that stores its page.';
COMMENT ON COLUMN backfills.trades IS 'How many were new to the database.';
COMMENT ON COLUMN backfills.unidentified IS 'Rows without a trade id, which were passed over: nothing without identity is stored.';
COMMENT ON COLUMN backfills.failures IS 'Answers in a row that were no page.';
COMMENT ON COLUMN backfills.run IS 'Grows with each lease; who holds an older one writes nothing any more.';
COMMENT ON COLUMN backfills.lease_until IS 'A running backfill past this time has lost its worker and is started again.';

CREATE TABLE absence_evidence (
    symbol  text           NOT NULL,
    seen_at timestamptz    NOT NULL DEFAULT now(),
    ids     int8multirange NOT NULL,
    PRIMARY KEY (symbol, seen_at)
);
COMMENT ON TABLE absence_evidence IS
    'Trade ids that a page passed over. Passed over again at least a minute later, they are proven absent.';
COMMENT ON COLUMN data_sync_status.time_ranges IS
    'Time that is covered, quiet minutes included. For trades: time that Kraken was asked about, beside what lies between the oldest and the newest trade. For candles: time for which Kraken gave its own candles, beside that of the trades.';
