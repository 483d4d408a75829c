-- What a candle of a download holds in the columns that the download lacks.

COMMENT ON COLUMN candles.source IS
    'ohlc: the exchange''s own candle, by API. csv: a download; built from its trades, or a candle without vwap. trades: built from the stored trades, with their ids.';
COMMENT ON COLUMN candles.vwap IS
    'Volume-weighted average price, cut to ten decimals. For a downloaded candle, which has none: the typical price, (high + low + close) / 3.';
COMMENT ON COLUMN candles.quote_volume IS
    'The sum of price × volume; for a candle that is not built from trades, volume × vwap.';
