"""Fetches missing data from Kraken's REST API, and contains the queue through which it is requested."""
