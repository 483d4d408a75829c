-- When a trade was stored and a candle last changed, so that candles can be read as they were known earlier.
--
-- By the start of the statement: that of the transaction may have waited for the symbol's lock after it, and then what
-- was stored later would have the earlier time; and a clock that is read for each row makes COPY insert row by row.
-- In two steps each: what is there already stays without a time.

ALTER TABLE trades ADD COLUMN stored_at timestamptz;
ALTER TABLE trades ALTER COLUMN stored_at SET DEFAULT statement_timestamp();
COMMENT ON COLUMN trades.stored_at IS 'Null: before this was kept.';

ALTER TABLE candles ADD COLUMN stored_at timestamptz;
ALTER TABLE candles ALTER COLUMN stored_at SET DEFAULT statement_timestamp();
COMMENT ON COLUMN candles.stored_at IS 'Time of the last change. Null: before this was kept.';
