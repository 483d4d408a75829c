"""The commands and their options, and the one place that turns each error into a line and an exit code."""

import signal
import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from kraken_history.cli.commands import archive as archive_command
from kraken_history.cli.commands import backfill as backfill_command
from kraken_history.cli.commands import backup as backup_command
from kraken_history.cli.commands import coverage as coverage_command
from kraken_history.cli.commands import export as export_command
from kraken_history.cli.commands import fetch_ohlc as fetch_ohlc_command
from kraken_history.cli.commands import fill_gaps as fill_gaps_command
from kraken_history.cli.commands import import_csv as import_csv_command
from kraken_history.cli.commands import indicators as indicators_command
from kraken_history.cli.commands import psql as psql_command
from kraken_history.cli.commands import refresh as refresh_command
from kraken_history.cli.commands import remove_trade as remove_trade_command
from kraken_history.cli.commands import replay as replay_command
from kraken_history.cli.commands import runs as runs_command
from kraken_history.cli.commands import upgrade as upgrade_command
from kraken_history.cli.commands import verify as verify_command
from kraken_history.cli.commands import web as web_command
from kraken_history.cli.gaps_option import HELP as GAPS_HELP
from kraken_history.cli.gaps_option import Gaps
from kraken_history.cli.instants import MOST_DAYS, range_options
from kraken_history.cli.loading import EXIT_INTERRUPTED, loading
from kraken_history.cli.output import OutputError, discard_output
from kraken_history.errors import UsageError
from kraken_history.intervals import parse_interval

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
letters_app = typer.Typer(help="List data that could not be decoded or stored, and replay it.", no_args_is_help=True)
app.add_typer(letters_app, name="dead-letters")
backfill_command.register(app)
coverage_command.register(app)
backup_command.register(app)
archive_command.register(app)
export_command.register(app)
fetch_ohlc_command.register(app)
fill_gaps_command.register(app)
import_csv_command.register(app)
psql_command.register(app)
refresh_command.register(app)
indicators_command.register(app)
runs_command.register(app)
verify_command.register(app)
remove_trade_command.register(app)
replay_command.register(app)
upgrade_command.register(app)
web_command.register(app)


class Format(StrEnum):
    """Output formats of ``candles``."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class Service(StrEnum):
    """The services that write signs of life."""

    PRODUCER = "producer"
    CONSUMER = "consumer"
    WORKER = "worker"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"kraken-history {version('kraken-history')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A Kraken market-data history that can prove it is complete.

    Commands connect to DATABASE_URL and REDIS_URL. If these are not set, PostgreSQL and Valkey run locally and
    keep their data in the data directory (KRAKEN_HISTORY_DATA_DIR).
    """


@app.command()
def up() -> None:
    """Start everything, and keep it running until Ctrl-C.

    Starts the embedded servers (unless DATABASE_URL and REDIS_URL are set), migrates the database, and starts the
    services of the Procfile. A program that crashes is restarted. Logs go to the terminal and to the data directory.

    Example: SYMBOLS=BTC/USDT,ETH/USDT kraken-history up
    """
    with loading():
        from kraken_history.cli.up import run_up
        from kraken_history.settings import load_settings
    raise typer.Exit(run_up(load_settings()))


@app.command()
def demo(
    seconds: Annotated[int, typer.Option(min=1, max=86_400, help="How long the simulator trades, in seconds.")] = 30,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same trades.")] = 0,
    rate: Annotated[float, typer.Option(min=0.1, max=100_000, help="Trades per second, all symbols together.")] = 200.0,
    as_json: AsJson = False,
) -> None:
    """Run everything against a simulated Kraken, offline, and prove that no trade was lost.

    Uses a temporary directory. If DATABASE_URL and REDIS_URL are both set, uses these servers, which must be empty.
    Exits with 0 only if the database holds exactly the simulator's trades and candles.

    Example: kraken-history demo --seconds 10 --rate 500
    """
    with loading():
        from kraken_history.cli.demo import run_demo
        from kraken_history.settings import load_settings
    raise typer.Exit(run_demo(load_settings(), seconds=seconds, seed=seed, rate=rate, as_json=as_json))


@app.command()
def migrate() -> None:
    """Bring the database to the schema of this version.

    It is safe to repeat, and to run from several processes at once.

    Example: DATABASE_URL=postgresql://me:secret@db/history kraken-history migrate
    """
    with loading():
        from kraken_history.cli.maintenance import run_migrate
        from kraken_history.settings import load_settings
    run_migrate(load_settings())


@app.command()
def status(
    as_json: AsJson = False,
    is_watched: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    every: Annotated[
        float, typer.Option(min=0.5, max=3600, help="With --watch: seconds from one time to the next.")
    ] = 5.0,
) -> None:
    """Show stored and missing data, the feed of each symbol, the streams' backlog, and the services.

    Example: kraken-history status --watch
    """
    with loading():
        from kraken_history.cli.status import run_status
        from kraken_history.settings import load_settings
    run_status(load_settings(), as_json=as_json, watch_s=every if is_watched else None)


@app.command()
def candles(
    symbol: Annotated[str, typer.Argument(help="For example BTC/USDT.")],
    interval: Annotated[
        str, typer.Option(help="Candle length: 1m, 5m, 15m, 30m, 1h, 4h, 12h, 1d, 1w, or any number of minutes.")
    ] = "1",
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Start time: ISO 8601, in UTC unless it has an offset, or today, yesterday."),
    ] = None,
    to: Annotated[str | None, typer.Option(help="End time, not included.")] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=MOST_DAYS, help="Instead of --from: this many days before --to, or now.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, max=2**31 - 1, help="At most this many candles. Without --from, the latest (default: 100)."
        ),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.TABLE,
    plot: Annotated[Path | None, typer.Option(help="Draw them into this PNG file instead, at most 2,000.")] = None,
    gaps: Annotated[Gaps, typer.Option(help=GAPS_HELP)] = Gaps.IGNORE,
) -> None:
    """Print stored candles, oldest first, or draw them.

    If part of the range is missing, one line on standard error says how much, and which command shows where.

    Example: kraken-history candles BTC/USDT --interval 1h --from 2026-01-01 --to 2026-02-01 --format csv
    """
    with loading():
        from kraken_history.cli.candles import run_candles
        from kraken_history.settings import load_settings
    start, end = range_options(from_, to, days)
    run_candles(
        load_settings(),
        symbol,
        parse_interval(interval),
        start=start,
        end=end,
        limit=limit,
        format_=format_.value,
        plot=plot,
        gaps=gaps,
    )


@letters_app.command("list")
def list_letters(as_json: AsJson = False) -> None:
    """List the dead letters, oldest first.

    Example: kraken-history dead-letters list
    """
    with loading():
        from kraken_history.cli.letters import run_list
        from kraken_history.settings import load_settings
    run_list(load_settings(), as_json=as_json)


@letters_app.command("replay")
def replay_letters(
    id_: Annotated[str | None, typer.Option("--id", help="Replay only this letter; `list` shows the ids.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Replay all current letters.")] = False,
) -> None:
    """Send dead letters back to be stored, and delete them from the list.

    Example: kraken-history dead-letters replay --id 1700000000000-0
    """
    if (id_ is None) is not all_:
        raise UsageError("expected either --id ID or --all")
    with loading():
        from kraken_history.cli.letters import run_replay
        from kraken_history.settings import load_settings
    raise typer.Exit(run_replay(load_settings(), id_))


@app.command()
def env() -> None:
    """Print DATABASE_URL and REDIS_URL, including passwords, as shell assignments.

    Example: eval "$(kraken-history env)" && psql "$DATABASE_URL"
    """
    with loading():
        from kraken_history.cli.maintenance import run_env
        from kraken_history.settings import load_settings
    run_env(load_settings())


@app.command()
def health(
    service: Annotated[Service, typer.Argument(help="The service to check.")],
    name: Annotated[
        str | None,
        typer.Option(help="Check only this instance, by host name or CONSUMER_NAME. Default: any."),
    ] = None,
) -> None:
    """Check that a service is running and healthy.

    Exits with 0 if it is. Otherwise prints the reason and exits with 1.

    Example: kraken-history health consumer
    """
    with loading():
        from kraken_history.cli.maintenance import run_health
        from kraken_history.settings import load_settings
    raise typer.Exit(run_health(load_settings(), service.value, name))


# The base class of Typer's command-line errors. The module that defines it depends on Typer's version.
_CommandLineError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code. Each expected failure is one line on standard error."""
    signal.signal(signal.SIGTERM, _interrupt)
    code = _run(arguments)
    # The output that is still in the buffer may fail, too: after an error, and after an interruption.
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
    except OutputError as error:
        code = code or _complain(error)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = app(args=arguments, prog_name="kraken-history", standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # The reader closed the pipe, which Typer reports as a failure. Buffered output must still go somewhere.
        discard_output()
        return 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except _CommandLineError as error:
        return _complain_about_usage(error)
    except Exception as error:
        return _complain(error)
    return code if isinstance(code, int) else 0


def _complain(error: Exception) -> int:
    with loading():
        from kraken_history.cli.failures import EXPECTED, complain
    if not isinstance(error, EXPECTED):
        raise error
    if isinstance(error, OutputError):
        discard_output()
    return complain(error)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _complain_about_usage(error: Any) -> int:
    with loading():
        from kraken_history.cli.wrong_values import words_of
    message = words_of(error) or error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message)
        return EXIT_USAGE
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "kraken-history"
    typer.echo(f"kraken-history: {' '.join(message.split())} (see {command} --help)", err=True)
    return int(error.exit_code)
