"""The HTTP API, for everything that is not Python. Needs the extra ``web``."""
