"""The command ``kraken-history``."""
