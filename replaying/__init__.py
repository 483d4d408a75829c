"""Stored history, served as Kraken would have sent it: the simulator's server, with trades from the database."""
