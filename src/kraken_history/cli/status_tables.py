"""The status in tables that fit into 80 columns."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kraken_history.cli.disk_sizes import readable
from kraken_history.cli.missing_time import lasting, rough
from kraken_history.cli.replicas import replica_line
from kraken_history.cli.status import Status
from kraken_history.cli.stream_words import unread_words
from kraken_history.cli.symbol_state import FeedState, in_words
from kraken_history.clock import hint_of_clocks

_WIDTH_IN_A_PIPE = 250
_NAMES = {"trades": "trades", "candles": "one-minute candles"}
_STYLES = {"live": "green", "quiet": "green", "behind": "yellow", "waiting": "yellow", "refused": "red",
           "disconnected": "red", "not followed": "dim"}  # fmt: skip


def print_tables(status: Status) -> None:
    """Print the status in the terminal's width."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_IN_A_PIPE)
    console.print(rendered(status))


def rendered(status: Status) -> RenderableType:
    """The status, for a console."""
    tables = (_stored(status), _complete(status), _streams(status), _services(status))
    spaced = [part for table in tables if table.row_count for part in (table, Text(""))]
    return Group(*spaced, *_lines(status))


def _table(title: str, *columns: str, left: tuple[str, ...] = ()) -> Table:
    """All columns except the first and those in ``left`` are right-aligned. Long cells are folded, never cut."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at and column not in left else "left", overflow="fold")
    return table


def _stored(status: Status) -> Table:
    table = _table(f"stored in {status.database}", "symbol", "trades", "since", "candles", "since", "newest trade")
    for symbol in status.symbols:
        stored, extent = symbol.stored, symbol.extent
        table.add_row(
            stored.symbol,
            f"{stored.trades:,}",
            _day(None if extent is None else extent.trades_since),
            f"{stored.candles:,}",
            _day(None if extent is None else extent.candles_since),
            "-" if stored.newest is None else f"{stored.newest:%Y-%m-%d %H:%M:%S}Z",
        )
    return table


def _complete(status: Status) -> Table:
    table = _table(
        "completeness and feed", "symbol", "missing ids", "missing time", "uncovered", "feed", left=("feed",)
    )
    for symbol in status.symbols:
        table.add_row(
            symbol.stored.symbol,
            f"{symbol.stored.missing:,}",
            lasting(symbol.missing.total_seconds()),
            _uncovered(symbol.uncovered),
            _feed(symbol.feed, symbol.stored.newest, status.at),
        )
    return table


def _feed(feed: FeedState, newest: datetime | None, now: datetime) -> Text:
    return Text(in_words(feed, newest, now=now), style=_STYLES[feed.word])


def _streams(status: Status) -> Table:
    table = _table("streams", "stream", "group", "length", "lag", "pending")
    for state in status.streams:
        table.add_row(
            state.stream, state.group or "(none)", f"{state.length:,}", f"{state.lag:,}", f"{state.pending:,}"
        )
    return table


def _services(status: Status) -> Table:
    table = _table("services", "service", "pid", "state", left=("state",))
    for name, sign in status.services.items():
        state, style = sign.state, "green" if sign.healthy else "red"
        if name in status.silent:
            state, style = f"no sign of life for {status.silent[name]} s: probably killed", "red"
        table.add_row(name, "" if sign.pid is None else str(sign.pid), Text(state, style=style))
    for service in status.not_running:
        table.add_row(service, "", Text("not running", style="red"))
    return table


def _lines(status: Status) -> Iterator[Text]:
    if status.replica_lag_s is not None:
        yield Text(replica_line(status.replica_lag_s))
    for table, ranges in status.dropped.items():
        yield Text(f"retention dropped {_NAMES.get(table, table)} before {ranges[-1].end:%Y-%m-%d}")
    sizes = status.sizes
    yield Text(
        f"on disk: {readable(sizes.database)}, of which trades {readable(sizes.trades)},"
        f" one-minute candles {readable(sizes.candles)}"
    )
    for state in status.read_by_nobody:
        yield Text(unread_words(state, status.shards), style="red")
    if hint := hint_of_clocks(status.clock_ahead_s):
        yield Text(f"here, {hint}", style="red")
    yield Text(f"dead letters: {status.dead_letters:,}")
    for symbol, asides in status.asides.items():
        yield Text(f"{symbol}: {asides.sentence}")
    for job in status.failing_jobs:
        yield Text(job.sentence, style="red")


def _day(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d}"


def _uncovered(duration: timedelta | None) -> str:
    if duration is None:
        return "-"
    return rough(duration) if duration else "0"
