"""The options of ``backup`` and ``restore``."""

from pathlib import Path
from typing import Annotated

import typer

from kraken_history.cli.loading import loading


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("backup")(_backup)
    app.command("restore")(_restore)


def _backup(
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Default: such as kraken-history-2026-01-01T120000Z.dump.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write the whole database into one file.

    The services may run meanwhile. The file is in pg_dump's custom format, and gets its name only when it is complete.
    Of the installed versions of pg_dump, uses the one that is most similar to the server's.

    Example: kraken-history backup kraken.dump
    """
    with loading():
        from kraken_history.cli.backup import run_backup
        from kraken_history.settings import load_settings
    run_backup(load_settings(), path, replaces=force)


def _restore(path: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `backup` wrote.")]) -> None:
    """Restore a backup into a database that holds no data.

    Stop the services first. A backup of TimescaleDB needs a server with the same version of TimescaleDB.

    Example: KRAKEN_HISTORY_DATA_DIR=/data/new kraken-history restore kraken.dump
    """
    with loading():
        from kraken_history.cli.backup import run_restore
        from kraken_history.settings import load_settings
    run_restore(load_settings(), path)
