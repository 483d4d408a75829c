"""Every write of trades, candles and longer intervals: no module of another room writes these tables.

========================  ====================================================================
``store``                 a batch of trades and candles, in one transaction
``pages``                 a page of REST Trades, with what its caller commits beside it
``candle_series``         many candles of one symbol, as a file holds them
``candle_building``       candles built anew from the stored trades
``ledger_writing``        which trades are new: the lock that all of these hold
``candle_writing``        trades added to their candles, other candles merged
``candle_deltas``         the candles of some trades, in Python
``candle_rules``          the rules that all statements about candles are made of
``candle_text``           many candles as COPY takes them
``candle_changes``        which minutes changed: for the refresh, and for followers
``longer_intervals``      the eight that are stored
``aggregates``            their refresh, and ``materialized``: one window of it
``partitions``            made before rows are written, and ahead
``retention``             what is old is dropped
========================  ====================================================================
"""
