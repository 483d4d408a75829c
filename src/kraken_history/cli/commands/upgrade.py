"""The command ``upgrade``. It has no options."""

import typer

from kraken_history.cli.loading import loading


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("upgrade")(_upgrade)


def _upgrade() -> None:
    """Move the embedded database to the PostgreSQL of this version.

    Needed if an older major version of PostgreSQL made the data directory. Stop `up` first. The old files are kept
    beside the new ones, so the disk must have room for both.

    Example: kraken-history upgrade
    """
    with loading():
        from kraken_history.cli.upgrade import run_upgrade
        from kraken_history.settings import load_settings
    run_upgrade(load_settings())
