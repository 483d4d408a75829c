"""The options of ``psql``."""

from typing import Annotated

import typer

from kraken_history.cli.loading import loading


def register(app: typer.Typer) -> None:
    """Add the command."""
    # All options but --help are psql's own; -h is its option for a host.
    settings = {"ignore_unknown_options": True, "help_option_names": ["--help"]}
    app.command("psql", context_settings=settings)(_psql)


def _psql(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGUMENTS", help="Passed on to psql.")] = None,
) -> None:
    """Run psql on the database.

    Uses the newest psql that is installed; the one of the embedded servers needs no installation. The exit code is
    psql's.

    Example: kraken-history psql -c "SELECT count(*) FROM trades"
    """
    with loading():
        from kraken_history.cli.psql import run_psql
        from kraken_history.settings import load_settings
    raise typer.Exit(run_psql(load_settings(), arguments or []))
