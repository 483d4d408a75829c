"""``status --watch``: the status, drawn again every few seconds."""

import asyncio
import sys
import time

from redis.exceptions import RedisError
from rich.console import Console
from rich.live import Live
from rich.text import Text

from kraken_history.cli import servers as server_choice
from kraken_history.cli.status import Status, fetch_status, print_status
from kraken_history.cli.status_tables import rendered
from kraken_history.embedded import Servers
from kraken_history.errors import HistoryError, ServiceUnavailable, UsageError
from kraken_history.settings import Settings


def watch(settings: Settings, *, every_s: float, as_json: bool) -> None:
    """Show the status until Ctrl-C. On a terminal it takes the whole screen, and gives it back at the end.

    If a server is away, its error is shown until it is back. Without a terminal, and as JSON, each status is printed
    after the other.
    """
    console = Console()
    try:
        if as_json or not console.is_terminal:
            _print_for_ever(settings, every_s, as_json=as_json)
        else:
            _draw_for_ever(settings, every_s, console)
    except KeyboardInterrupt:
        return


def _print_for_ever(settings: Settings, every_s: float, *, as_json: bool) -> None:
    while True:
        status = _status_or_trouble(settings)
        if isinstance(status, Status):
            print_status(status, as_json=as_json)
        else:
            sys.stderr.write(f"{status}\n")
        sys.stdout.flush()
        time.sleep(every_s)


def _draw_for_ever(settings: Settings, every_s: float, console: Console) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            status = _status_or_trouble(settings)
            live.update(rendered(status) if isinstance(status, Status) else Text(status), refresh=True)
            time.sleep(every_s)


def _status_or_trouble(settings: Settings) -> Status | str:
    """The status, or the reason why there is none now."""
    try:
        if None in server_choice.endpoints_that_are_set(settings):
            _see_that_servers_run(settings)
        with server_choice.endpoints(settings) as endpoints:
            # The next look comes soon anyway.
            return asyncio.run(fetch_status(endpoints, settings.model_copy(update={"redis_wait_s": 0.0})))
    except UsageError:
        raise
    except (HistoryError, RedisError, OSError) as error:
        return str(error) or type(error).__name__


def _see_that_servers_run(settings: Settings) -> None:
    """Servers that do not run are not started: they would keep `up` from starting."""
    servers = Servers(server_choice.data_dir(settings))
    if not servers.is_running():
        raise ServiceUnavailable(
            f"the servers in {servers.data_dir} are not running: start them with `kraken-history up`"
        )
