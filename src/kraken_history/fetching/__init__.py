"""Fetching what is missing from Kraken's REST API, and the queue through which it is requested."""
