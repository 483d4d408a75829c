"""The commands and their options, and the one place that turns errors into a line and an exit code."""

import os
import signal
import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from kraken_history.cli.commands import backfill as backfill_command
from kraken_history.cli.commands import export as export_command
from kraken_history.cli.commands import fill_gaps as fill_gaps_command
from kraken_history.cli.commands import import_csv as import_csv_command
from kraken_history.cli.commands import refresh as refresh_command
from kraken_history.cli.instants import instant_option
from kraken_history.cli.loading import EXIT_INTERRUPTED, loading
from kraken_history.errors import UsageError

EXIT_USAGE = 2

app = typer.Typer(
    name="kraken-history",
    help="A Kraken market-data history that can prove it is complete.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
letters_app = typer.Typer(
    help="Look at what could not be read or stored, and give it back to be stored.", no_args_is_help=True
)
app.add_typer(letters_app, name="dead-letters")
backfill_command.register(app)
export_command.register(app)
fill_gaps_command.register(app)
import_csv_command.register(app)
refresh_command.register(app)


class Format(StrEnum):
    """How candles are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class Service(StrEnum):
    """The services that leave a sign of life."""

    PRODUCER = "producer"
    CONSUMER = "consumer"
    WORKER = "worker"


AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"kraken-history {version('kraken-history')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """A Kraken market-data history that can prove it is complete.

    Servers are those of DATABASE_URL and REDIS_URL; without them, PostgreSQL and Valkey run in the data
    directory (KRAKEN_HISTORY_DATA_DIR).
    """


@app.command()
def up() -> None:
    """Start everything, and keep it running until Ctrl-C.

    The embedded servers (unless DATABASE_URL and REDIS_URL are set), the migration, and then the services of
    the Procfile; what crashes is started again. Logs go to the terminal and to the data directory.

    Example: SYMBOLS=BTC/USDT,ETH/USDT kraken-history up
    """
    with loading():
        from kraken_history.cli.up import run_up
        from kraken_history.settings import load_settings
    raise typer.Exit(run_up(load_settings()))


@app.command()
def demo(
    seconds: Annotated[int, typer.Option(min=1, max=86_400, help="How long the simulator trades.")] = 30,
    seed: Annotated[int, typer.Option(help="The same seed makes the same trades.")] = 0,
    rate: Annotated[float, typer.Option(min=0.1, max=100_000, help="Trades a second over all symbols.")] = 200.0,
    as_json: AsJson = False,
) -> None:
    """Run everything against a simulated Kraken, offline, and prove that no trade was lost.

    Uses a temporary directory, or DATABASE_URL and REDIS_URL if both are set and empty. Exits with 0 only if the
    database equals what was sent.

    Example: kraken-history demo --seconds 10 --rate 500
    """
    with loading():
        from kraken_history.cli.demo import run_demo
        from kraken_history.settings import load_settings
    raise typer.Exit(run_demo(load_settings(), seconds=seconds, seed=seed, rate=rate, as_json=as_json))


@app.command()
def migrate() -> None:
    """Bring the database to this version's schema; safe to repeat, and to run from many processes at once.

    Example: DATABASE_URL=postgresql://me:secret@db/history kraken-history migrate
    """
    with loading():
        from kraken_history.cli.maintenance import run_migrate
        from kraken_history.settings import load_settings
    run_migrate(load_settings())


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show what is stored, what is missing, what waits in the streams, and which services live.

    Example: kraken-history status --json
    """
    with loading():
        from kraken_history.cli.status import run_status
        from kraken_history.settings import load_settings
    run_status(load_settings(), as_json=as_json)


@app.command()
def candles(
    symbol: Annotated[str, typer.Argument(help="For example BTC/USDT.")],
    interval: Annotated[
        int, typer.Option(help="Length in minutes: 1, 5, 15, 30, 60, 240, 720, 1440, 10080, or any other.")
    ] = 1,
    from_: Annotated[
        str | None, typer.Option("--from", help="First time, ISO 8601, in UTC unless it says otherwise.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="End, not included.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="Most candles; without --from the latest, 100 by default.")
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="How to write them.")] = Format.TABLE,
    plot: Annotated[Path | None, typer.Option(help="Draw them into this PNG instead, 2,000 at most.")] = None,
) -> None:
    """Write candles, oldest first, or draw them.

    Example: kraken-history candles BTC/USDT --interval 60 --from 2026-01-01 --to 2026-02-01 --format csv
    """
    with loading():
        from kraken_history.cli.candles import run_candles
        from kraken_history.settings import load_settings
    start, end = instant_option("--from", from_), instant_option("--to", to)
    run_candles(load_settings(), symbol, interval, start=start, end=end, limit=limit, format_=format_.value, plot=plot)


@letters_app.command("list")
def list_letters(as_json: AsJson = False) -> None:
    """Show the dead letters, oldest first.

    Example: kraken-history dead-letters list
    """
    with loading():
        from kraken_history.cli.letters import run_list
        from kraken_history.settings import load_settings
    run_list(load_settings(), as_json=as_json)


@letters_app.command("replay")
def replay_letters(
    id_: Annotated[str | None, typer.Option("--id", help="Of one letter, as `list` shows it.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All letters that there are now.")] = False,
) -> None:
    """Give dead letters back to be stored, and forget them.

    Example: kraken-history dead-letters replay --id 1700000000000-0
    """
    if (id_ is None) is not all_:
        raise UsageError("say either --id ID or --all")
    with loading():
        from kraken_history.cli.letters import run_replay
        from kraken_history.settings import load_settings
    raise typer.Exit(run_replay(load_settings(), id_))


@app.command()
def env() -> None:
    """Print DATABASE_URL and REDIS_URL for the shell, with their passwords.

    Example: eval "$(kraken-history env)" && psql "$DATABASE_URL"
    """
    with loading():
        from kraken_history.cli.maintenance import run_env
        from kraken_history.settings import load_settings
    run_env(load_settings())


@app.command()
def health(
    service: Annotated[Service, typer.Argument(help="Which service.")],
    name: Annotated[str | None, typer.Option(help="Of one instance: its host or CONSUMER_NAME; else any.")] = None,
) -> None:
    """Exit with 0 if a service lives and is well, else with 1 and a line that says why; for health checks.

    Example: kraken-history health consumer
    """
    with loading():
        from kraken_history.cli.maintenance import run_health
        from kraken_history.settings import load_settings
    raise typer.Exit(run_health(load_settings(), service.value, name))


# Typer's base of everything wrong on the command line; which module it is in depends on Typer's version.
_CommandLineError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code. Every failure that has a cause is one line on standard error."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(args=arguments, prog_name="kraken-history", standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # The reader has seen enough, which Typer makes a failure. What is buffered still has to go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        return 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except _CommandLineError as error:
        return _complain_about_usage(error)
    except Exception as error:
        with loading():
            from kraken_history.cli.failures import EXPECTED, complain
        if not isinstance(error, EXPECTED):
            raise
        return complain(error)
    return code if isinstance(code, int) else 0


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _complain_about_usage(error: Any) -> int:
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message)
        return EXIT_USAGE
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "kraken-history"
    typer.echo(f"kraken-history: {' '.join(message.split())} (see {command} --help)", err=True)
    return int(error.exit_code)
