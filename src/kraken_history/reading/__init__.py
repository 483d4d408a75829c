"""What :class:`kraken_history.provider.HistoricalDataProvider` is made of, one kind of read a module."""
