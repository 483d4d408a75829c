"""The options of ``runs``."""

from typing import Annotated

import typer

from kraken_history.cli.loading import loading

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Strategy = Annotated[str | None, typer.Option(help="Only runs of this strategy.")]
Limit = Annotated[int, typer.Option(min=1, max=1_000, help="At most this many, the newest.")]

runs_app = typer.Typer(help="List, show and compare saved backtest and paper runs.", invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(runs_app, name="runs")


@runs_app.callback()
def _runs(context: typer.Context, strategy: Strategy = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List, show and compare saved backtest and paper runs. Without a command, list them.

    Example: kraken-history runs --strategy crossing
    """
    if context.invoked_subcommand is None:
        _list(strategy, limit, as_json)


@runs_app.command("list")
def _list(strategy: Strategy = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List saved runs, newest first.

    Example: kraken-history runs list --strategy crossing
    """
    with loading():
        from kraken_history.cli.runs import run_list
    run_list(strategy, limit, as_json=as_json)


@runs_app.command("show")
def _show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The id, or its first characters.")],
    as_json: AsJson = False,
) -> None:
    """Show one run: its parameters, metrics, and the coverage of the history that it read.

    Example: kraken-history runs show 0b9f3c21
    """
    with loading():
        from kraken_history.cli.runs import run_show
    run_show(id_, as_json=as_json)


@runs_app.command("compare")
def _compare(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Two to four ids, or their first characters.")],
    as_json: AsJson = False,
) -> None:
    """Show runs side by side. A * marks what is not the same in all of them.

    Example: kraken-history runs compare 0b9f3c21 77ac0d15
    """
    with loading():
        from kraken_history.cli.runs import run_compare
    run_compare(ids, as_json=as_json)
