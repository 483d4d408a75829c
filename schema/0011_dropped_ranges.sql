-- The time whose rows retention has dropped: what is stored there again later does not make it complete.

CREATE TABLE dropped_ranges (
    relation text           PRIMARY KEY,
    ranges   tstzmultirange NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE dropped_ranges IS 'Whole partitions or chunks of trades and candles, for all symbols at once.';
GRANT SELECT ON dropped_ranges TO kraken_reader, kraken_writer;

-- Of what was dropped before this was kept, daily candles tell that hold more trades than the minutes that are left.
-- Days on which nothing was traded, and such as have as many trades again, cannot be told.
INSERT INTO dropped_ranges
SELECT 'candles', range_agg(tstzrange(d.timestamp, d.timestamp + interval '24 hours'))
FROM candles_1d AS d
LEFT JOIN (
    SELECT symbol, date_bin('24 hours', timestamp, timestamptz '2000-01-03 00:00:00+00') AS day,
           sum(trade_count) AS trade_count
    FROM candles WHERE interval_minutes = 1 GROUP BY 1, 2
) AS minutes ON minutes.symbol = d.symbol AND minutes.day = d.timestamp
WHERE d.trade_count > coalesce(minutes.trade_count, 0)
HAVING count(*) > 0;
