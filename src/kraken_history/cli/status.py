"""``status``: stored and missing data, feeds, the streams' backlog, and the services, once or again and again."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
from msgspec import Struct

from kraken_history.cli import servers as server_choice
from kraken_history.cli.asides import Asides, fetch_asides
from kraken_history.cli.background_jobs import FailingJob, fetch_failing_jobs
from kraken_history.cli.disk_sizes import Sizes, fetch_sizes
from kraken_history.cli.instants import instant
from kraken_history.cli.progress import Progress, fetch_progress
from kraken_history.cli.redis_away import patience_of
from kraken_history.cli.symbol_state import FeedState, feed_state
from kraken_history.completeness.covered_time import find_uncovered_time
from kraken_history.database.connections import Connection, connect
from kraken_history.database.migrations import check_schema
from kraken_history.kraken.pairs import find_symbol
from kraken_history.reading.measured_coverage import find_missing
from kraken_history.reading.replicas import read_replica_lag
from kraken_history.reading.stored_extent import Extent, read_dropped, read_extents
from kraken_history.records import TimeRange
from kraken_history.runtime import liveness
from kraken_history.runtime.clocks import Clocks
from kraken_history.runtime.liveness import SILENT_AFTER_S
from kraken_history.runtime.redis_access import connect_both
from kraken_history.runtime.redis_connections import prefix_of
from kraken_history.runtime.signs import AnySign, ConsumerSign, ProducerSign, Signs, WorkerSign
from kraken_history.settings import Settings
from kraken_history.stream import wire
from kraken_history.stream.backlog import StreamState, fetch_streams, nobody_reads
from kraken_history.stream.shards import fetch_shards
from kraken_history.urls import without_password

SERVICES = (ProducerSign.service, ConsumerSign.service, WorkerSign.service)
"""The services that a running system has, each at least once."""

NOTHING_STORED = "nothing is stored yet: start `kraken-history up`"


class Symbol(Struct, frozen=True):
    """One symbol of the status.

    Attributes:
        extent: None if nothing was ever stored.
        missing: Missing time between the oldest and the newest stored data, that of missing ids included.
        uncovered: Wanted time that is not covered; None if no history of the symbol is wanted.
    """

    stored: Progress
    extent: Extent | None
    missing: timedelta
    uncovered: timedelta | None
    feed: FeedState


class Status(Struct, frozen=True):
    """Everything that ``status`` shows.

    Attributes:
        at: By the clock of the database.
        dropped: By table, the time whose rows retention dropped.
        ages_s: By name of a service, seconds since its last sign of life.
        shards: Number of shards into which the streams are divided.
        clock_ahead_s: By server: seconds by which the clock of this machine is ahead.
        replica_lag_s: If the database is a standby: seconds by which it is behind its primary.
    """

    at: datetime
    database: str
    symbols: Sequence[Symbol]
    dropped: Mapping[str, Sequence[TimeRange]]
    sizes: Sizes
    streams: Sequence[StreamState]
    shards: int
    services: Mapping[str, AnySign]
    ages_s: Mapping[str, float]
    dead_letters: int
    asides: Mapping[str, Asides]
    failing_jobs: Sequence[FailingJob]
    clock_ahead_s: Mapping[str, float] = {}
    replica_lag_s: float | None = None

    @property
    def not_running(self) -> list[str]:
        """The services of which there is no sign of life."""
        running = {name.partition(":")[0] for name in self.services}
        return [service for service in SERVICES if service not in running]

    @property
    def silent(self) -> dict[str, int]:
        """By service that was probably killed: seconds since its last sign of life, which expires after 15."""
        return {name: round(age_s) for name, age_s in self.ages_s.items() if age_s > SILENT_AFTER_S}

    @property
    def read_by_nobody(self) -> list[StreamState]:
        """Streams in which entries wait that no consumer reads."""
        return nobody_reads(self.streams, self.shards)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is stored."""
        return not any(symbol.stored.trades or symbol.stored.candles for symbol in self.symbols)


def run_status(settings: Settings, *, as_json: bool, watch_s: float | None = None) -> None:
    """Read both servers and print the status.

    Args:
        watch_s: Repeat after so many seconds, until Ctrl-C.
    """
    if watch_s is not None:
        from kraken_history.cli.status_watch import watch

        watch(settings, every_s=watch_s, as_json=as_json)
        return
    with server_choice.endpoints(settings) as endpoints:
        status = asyncio.run(fetch_status(endpoints, settings))
    print_status(status, as_json=as_json)
    if status.is_empty:
        sys.stderr.write(f"{NOTHING_STORED}\n")


def print_status(status: Status, *, as_json: bool) -> None:
    """Print the status on standard output, as JSON or in tables."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(as_record(status)).decode() + "\n")
        return
    from kraken_history.cli.status_tables import print_tables

    print_tables(status)


async def fetch_status(endpoints: server_choice.Endpoints, settings: Settings) -> Status:
    """The status now."""
    retry = patience_of(settings)
    async with connect_both(endpoints.redis_url, endpoints.jobs_redis_url, retry=retry) as (redis, jobs_redis):
        signs = await liveness.signs_of_life(jobs_redis)
        clocks = Clocks()
        await clocks.ask(jobs_redis)
        streams = await fetch_streams(redis)
        shards = await fetch_shards(redis) or settings.stream_shards
        dead_letters = await redis.xlen(wire.dead_letters_stream(prefix_of(redis)))
    connection = await connect(endpoints.database_url)
    try:
        await check_schema(connection)
        now: datetime = await connection.fetchval("SELECT now()")
        symbols = await _fetch_symbols(connection, signs, settings, now)
        dropped = await read_dropped(connection)
        sizes = await fetch_sizes(connection)
        asides = await fetch_asides(connection)
        failing_jobs = await fetch_failing_jobs(connection)
        lag_s = await read_replica_lag(connection)
    finally:
        await connection.close()
    place = without_password(endpoints.database_url)
    return Status(
        now,
        place,
        symbols,
        dropped,
        sizes,
        streams,
        shards,
        signs.by_name,
        signs.ages_s,
        dead_letters,
        asides,
        failing_jobs,
        clocks.ahead_s,
        lag_s,
    )


async def _fetch_symbols(connection: Connection, signs: Signs, settings: Settings, now: datetime) -> list[Symbol]:
    known = await fetch_progress(connection)
    extents = await read_extents(connection)
    wanted_days = signs.wanted_days or {
        symbol: settings.history_days for name in settings.symbols if (symbol := find_symbol(name, known)) is not None
    }
    uncovered = await find_uncovered_time(connection, wanted_days, live_ids=signs.live_ids, now=now)
    refused = [symbol for producer in signs.of(ProducerSign) for symbol in producer.refused]
    every = {symbol: _nothing_of(symbol) for symbol in [*wanted_days, *refused]} | known
    return [
        Symbol(
            stored,
            extents.get(symbol),
            await _missing_time(connection, symbol, extents.get(symbol)),
            uncovered.get(symbol),
            feed_state(symbol, stored.newest_id, stored.newest, signs=signs, is_wanted=symbol in wanted_days, now=now),
        )
        for symbol, stored in sorted(every.items())
    ]


async def _missing_time(connection: Connection, symbol: str, extent: Extent | None) -> timedelta:
    if extent is None:
        return timedelta()
    # To whole seconds inwards: before the oldest and after the newest trade nothing is stored.
    start = extent.since.replace(microsecond=0) + timedelta(seconds=1 if extent.since.microsecond else 0)
    end = extent.until.replace(microsecond=0)
    missing = await find_missing(connection, symbol, start, end) if start < end else []
    return sum((each.duration for each in missing), timedelta())


def _nothing_of(symbol: str) -> Progress:
    return Progress(symbol, 0, None, None, None, 0, 0, 0, None)


def as_record(status: Status) -> dict[str, object]:
    """The status as ``--json`` prints it."""
    return {
        "at": instant(status.at),
        "database": status.database,
        "replica_lag_s": status.replica_lag_s,
        "symbols": {symbol.stored.symbol: _symbol_record(symbol, status) for symbol in status.symbols},
        "dropped": {
            table: [{"start": instant(each.start), "end": instant(each.end)} for each in ranges]
            for table, ranges in status.dropped.items()
        },
        "size_bytes": status.sizes,
        "streams": status.streams,
        "shards": status.shards,
        "read_by_nobody": sorted({state.stream for state in status.read_by_nobody}),
        "services": status.services,
        "not_running": status.not_running,
        "silent_s": status.silent,
        "dead_letters": status.dead_letters,
        "failing_jobs": status.failing_jobs,
        "clock_ahead_s": status.clock_ahead_s,
    }


def _symbol_record(symbol: Symbol, status: Status) -> dict[str, object]:
    stored, extent = symbol.stored, symbol.extent
    lag_s = None if stored.newest is None else round((status.at - stored.newest).total_seconds(), 3)
    return {
        "trades": stored.trades,
        "trades_since": extent and extent.trades_since,
        "oldest": stored.oldest,
        "newest": stored.newest,
        "missing": stored.missing,
        "holes": stored.holes,
        "missing_s": _seconds(symbol.missing),
        "uncovered_s": None if symbol.uncovered is None else _seconds(symbol.uncovered),
        "candles": stored.candles,
        "candles_since": extent and extent.candles_since,
        "lag_s": lag_s,
        "state": symbol.feed.word,
        "reason": symbol.feed.reason,
        "quiet_since": symbol.feed.quiet_since,
        "behind": symbol.feed.behind_ids,
        **msgspec.to_builtins(status.asides.get(stored.symbol, Asides())),
    }


def _seconds(duration: timedelta) -> float:
    seconds = round(duration.total_seconds(), 3)
    return int(seconds) if seconds.is_integer() else seconds
