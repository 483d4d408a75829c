"""Every write of trades and candles, and the refresh of the longer intervals."""
