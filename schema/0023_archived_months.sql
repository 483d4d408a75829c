-- The versions of the months that an archive may hold, so that a change after archiving is noticed.

CREATE TABLE archived_months (
    symbol  text NOT NULL,
    month   date NOT NULL,
    version uuid NOT NULL DEFAULT gen_random_uuid(),
    PRIMARY KEY (symbol, month)
);
COMMENT ON TABLE archived_months IS
    'Months of which trades and one-minute candles were archived. Every transaction that changes rows of such a month replaces its version; retention does not.';
COMMENT ON COLUMN archived_months.month IS 'The first day of the month, in UTC.';

GRANT SELECT ON archived_months TO kraken_reader, kraken_writer;
GRANT INSERT, UPDATE ON archived_months TO kraken_writer;
