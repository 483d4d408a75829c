"""The commands ``indicators fetch`` and ``indicators list``."""

from typing import Annotated

import typer

from kraken_history.cli.loading import loading

indicators_app = typer.Typer(help="Fetch and list figures from outside Kraken.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(indicators_app, name="indicators")


@indicators_app.command("fetch")
def _fetch(
    name: Annotated[str | None, typer.Argument(help="fear_greed or btc_dominance. Default: both.")] = None,
) -> None:
    """Fetch external indicators, with all the history that their sources have.

    fear_greed comes from alternative.me, since 2018-02-01; btc_dominance from coingecko, which gives only the present
    figure. Both are fetched whether or not the worker is set to fetch them daily.

    Example: kraken-history indicators fetch fear_greed
    """
    with loading():
        from kraken_history.cli.indicators import run_fetch
        from kraken_history.settings import load_settings
    raise typer.Exit(run_fetch(load_settings(), name))


@indicators_app.command("list")
def _list(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False) -> None:
    """List the stored indicators, with the number of their figures and their extent.

    Example: kraken-history indicators list --json
    """
    with loading():
        from kraken_history.cli.indicators import run_list
        from kraken_history.settings import load_settings
    run_list(load_settings(), as_json=as_json)
