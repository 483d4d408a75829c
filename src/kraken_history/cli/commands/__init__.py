"""Options and help texts of the commands with many options.

These modules import no library that takes long to load; ``kraken_history.cli.loading`` explains why.
"""
