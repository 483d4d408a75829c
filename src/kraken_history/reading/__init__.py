"""The reads behind :class:`kraken_history.provider.HistoricalDataProvider`, one kind of read per module."""
