"""Every write of trades, candles and longer intervals: no module of another package writes these tables.

========================  ====================================================================
``store``                 a batch of trades and candles, in one transaction
``pages``                 a page of REST Trades, and further writes of its caller in the same transactions
``candle_series``         many candles of one symbol, for example from a file
``candle_building``       candles rebuilt from the stored trades
``ledger_writing``        which trades are new, and the lock that every write holds
``candle_writing``        trades added to their candles, other candles merged
``candle_deltas``         the candles of some trades, in Python
``candle_rules``          the rules from which all statements about candles are built
``contested``             minutes whose own candle waits for a proof
``candle_text``           many candles in COPY's text format
``map_building``          the maps of the minutes with candles, for coverage
``candle_changes``        records which minutes changed: for the refresh, and for followers
``longer_candles``        candles of longer intervals that have no minutes below them
``longer_intervals``      the eight stored intervals
``aggregates``            their refresh; ``materialized`` refreshes one window
``candle_checks``         finds wrong candles; ``repair`` repairs trades, ledger and candles
``partitions``            created before rows are written, and ahead of time
``retention``             drops old data
========================  ====================================================================
"""
