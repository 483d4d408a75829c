"""The options of the commands that have many, and their help.

Nothing here imports a library that takes long to load; ``kraken_history.cli.loading`` says why.
"""
