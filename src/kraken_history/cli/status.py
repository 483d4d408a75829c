"""``status``: stored and missing data, the streams' backlog, and the running services."""

import asyncio
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import Struct
from rich.table import Table
from rich.text import Text

from kraken_history.cli import servers as server_choice
from kraken_history.cli.backfill_progress import rough
from kraken_history.cli.instants import instant
from kraken_history.cli.progress import Progress, fetch_progress
from kraken_history.cli.streams import StreamState, fetch_streams
from kraken_history.cli.tables import print_table, table_of
from kraken_history.completeness.covered_time import find_uncovered_time
from kraken_history.database.connections import connect
from kraken_history.database.migrations import check_schema
from kraken_history.kraken.pairs import find_symbol
from kraken_history.runtime import liveness
from kraken_history.runtime.processes import connect_redis
from kraken_history.runtime.redis_connections import prefix_of
from kraken_history.runtime.signs import AnySign
from kraken_history.settings import Settings
from kraken_history.stream import wire
from kraken_history.urls import without_password


class Status(Struct, frozen=True):
    """Everything that ``status`` shows.

    Attributes:
        uncovered: Wanted time that is not covered, per symbol whose history is wanted.
    """

    at: datetime
    database: str
    symbols: list[Progress]
    uncovered: dict[str, timedelta]
    streams: list[StreamState]
    services: Mapping[str, AnySign]
    dead_letters: int


def run_status(settings: Settings, *, as_json: bool) -> None:
    """Read both servers and print the status."""
    with server_choice.endpoints(settings) as endpoints:
        status = asyncio.run(_fetch(endpoints, settings))
    if as_json:
        sys.stdout.write(msgspec.json.encode(_as_json(status)).decode() + "\n")
    else:
        _print(status)
    if not any(symbol.trades or symbol.candles for symbol in status.symbols):
        sys.stderr.write("nothing is stored yet: start `kraken-history up`\n")


async def _fetch(endpoints: server_choice.Endpoints, settings: Settings) -> Status:
    async with await connect_redis(endpoints.redis_url) as redis:
        signs = await liveness.signs_of_life(redis)
        streams = await fetch_streams(redis, shards=settings.stream_shards)
        dead_letters = await redis.xlen(wire.dead_letters_stream(prefix_of(redis)))
    connection = await connect(endpoints.database_url)
    try:
        await check_schema(connection)
        now = datetime.now(UTC)
        known = await fetch_progress(connection)
        wanted_days = signs.wanted_days or {
            symbol: settings.history_days
            for name in settings.symbols
            if (symbol := find_symbol(name, known)) is not None
        }
        uncovered = await find_uncovered_time(connection, wanted_days, live_ids=signs.live_ids, now=now)
    finally:
        await connection.close()
    symbols = {symbol: _nothing_of(symbol) for symbol in wanted_days} | known
    return Status(
        now,
        without_password(endpoints.database_url),
        [symbols[symbol] for symbol in sorted(symbols)],
        uncovered,
        streams,
        signs.by_name,
        dead_letters,
    )


def _nothing_of(symbol: str) -> Progress:
    return Progress(symbol, 0, None, None, None, 0, 0, 0, None)


def _as_json(status: Status) -> dict[str, object]:
    return {
        "at": instant(status.at),
        "database": status.database,
        "symbols": {
            symbol.symbol: {
                "trades": symbol.trades,
                "oldest": symbol.oldest,
                "newest": symbol.newest,
                "missing": symbol.missing,
                "holes": symbol.holes,
                "uncovered_s": _uncovered_s(status, symbol),
                "candles": symbol.candles,
                "lag_s": _lag_s(status, symbol),
            }
            for symbol in status.symbols
        },
        "streams": status.streams,
        "services": status.services,
        "dead_letters": status.dead_letters,
    }


def _lag_s(status: Status, symbol: Progress) -> float | None:
    return None if symbol.newest is None else round((status.at - symbol.newest).total_seconds(), 3)


def _uncovered_s(status: Status, symbol: Progress) -> float | None:
    """In seconds; None if no history of the symbol is wanted."""
    uncovered = status.uncovered.get(symbol.symbol)
    return None if uncovered is None else round(uncovered.total_seconds(), 3)


def _print(status: Status) -> None:
    for table in (_symbols(status), _streams(status), _services(status)):
        if table.row_count:
            print_table(table)
    sys.stdout.write(f"dead letters: {status.dead_letters}\n")


def _symbols(status: Status) -> Table:
    table = table_of(
        "symbol", "trades", "oldest", "newest", "missing ids", "uncovered", "candles", "lag",
        title=f"stored in {status.database}",
    )  # fmt: skip
    for symbol in status.symbols:
        lag_s = _lag_s(status, symbol)
        table.add_row(
            symbol.symbol,
            f"{symbol.trades:,}",
            _short(symbol.oldest),
            _short(symbol.newest),
            f"{symbol.missing:,}",
            _uncovered(status.uncovered.get(symbol.symbol)),
            f"{symbol.candles:,}",
            "-" if lag_s is None else f"{lag_s:,.1f} s",
        )
    return table


def _streams(status: Status) -> Table:
    table = table_of("stream", "group", "length", "lag", "pending", title="streams")
    for state in status.streams:
        table.add_row(
            state.stream, state.group or "(none)", f"{state.length:,}", f"{state.lag:,}", f"{state.pending:,}"
        )
    return table


def _services(status: Status) -> Table:
    table = table_of("service", "pid", "state", title="services")
    for name, sign in status.services.items():
        table.add_row(name, "" if sign.pid is None else str(sign.pid), Text(sign.state))
    return table


def _uncovered(duration: timedelta | None) -> str:
    if duration is None:
        return "-"
    return rough(duration) if duration else "0"


def _short(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
