"""Histories of any size, built in the database by SQL, to measure how costs grow with them.

A history is written under the schema of :data:`BASE_VERSION`, which never changes, because files of the schema are not
changed once they are released. All later migrations are applied afterwards, and carry it over as they carry over the
database of a user. So a change of the schema needs no change here, and each run tries its migration.
"""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import asyncpg
from msgspec import Struct

from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import CONTINUOUS_AGGREGATES, kept_capabilities, migrate, read_migrations
from kraken_history.records import MINUTE, TimeRange, floor_minute
from kraken_history.storing.aggregates import refresh

BASE_VERSION = 18
"""Version of the schema under which histories are written."""

DAY = timedelta(days=1)
_SLICE = 30 * DAY  # per statement, which locks the partition of each day
_SLICE_TRADES = 1_000_000  # most per statement
_COMPRESSED_AFTER = 30 * DAY
_CHUNKS_AT_ONCE = 50


class History(Struct, frozen=True):
    """Trades of one symbol, evenly spaced, and their candles and ledger.

    Attributes:
        start, end: Time of the trades, and of the candles.
        trades: Number of stored trades; 0 for an empty history.
        holes: Number of single ids that are missing, evenly spaced. At most two fewer than trades.
        asked_until: Kraken was asked up to this time, and had no later trades; by default, up to the newest trade.
    """

    symbol: str
    start: datetime
    end: datetime
    trades: int
    holes: int = 0
    asked_until: datetime | None = None

    @property
    def last_id(self) -> int:
        """The highest id. The lowest is 1."""
        return self.trades + self.holes

    @property
    def step(self) -> timedelta:
        """Time between two ids."""
        return (self.end - self.start) / self.last_id

    def time_of(self, trade_id: int) -> datetime:
        """When the trade with this id was made."""
        return self.start + (trade_id - 1) * self.step

    def hole(self, number: int) -> int:
        """The missing id with this number, from 1 on."""
        return -(-number * self.last_id // (self.holes + 1))


class Built(Struct, frozen=True):
    """The outcome of building.

    Attributes:
        fill_s: Seconds until the histories were written.
        migrate_s: Seconds of the later migrations.
        refresh_s: Seconds of the first refresh of the longer intervals.
    """

    fill_s: float
    migrate_s: float
    refresh_s: float


async def build(url: str, histories: Sequence[History], *, materialized: bool = False) -> Built:
    """Write histories into an empty database, and migrate it to the present schema.

    On TimescaleDB, chunks older than 30 days are compressed, and no policy is left to run.

    Args:
        materialized: Refresh the longer intervals.
    """
    await migrate(url, migrations=[each for each in read_migrations() if each.version <= BASE_VERSION])
    moments = [time.perf_counter()]
    async with await create_pool(url, min_size=1, max_size=1) as pool:
        for history in histories:
            if history.trades:
                await _fill(pool, history, materialized)
        moments.append(time.perf_counter())
        await migrate(url)
        moments.append(time.perf_counter())
        if materialized:
            await refresh(pool)
        moments.append(time.perf_counter())
        async with pool.acquire() as connection:
            has_chunks = CONTINUOUS_AGGREGATES in await kept_capabilities(connection)
        if has_chunks and histories:
            await _compress(pool, max(history.end for history in histories) - _COMPRESSED_AFTER)
        await pool.execute("VACUUM ANALYZE")
        await pool.execute("CHECKPOINT")
    return Built(moments[1] - moments[0], moments[2] - moments[1], moments[3] - moments[2])


async def _fill(pool: asyncpg.Pool, history: History, materialized: bool) -> None:
    days = [history.start + n * DAY for n in range((history.end - history.start) // DAY + 1)] + [history.end]
    for at in range(0, len(days), _CHUNKS_AT_ONCE):
        for table in ("trades", "candles"):
            await pool.execute("SELECT ensure_partitions($1, $2)", table, days[at : at + _CHUNKS_AT_ONCE])
    size = max(min(_SLICE // history.step, _SLICE_TRADES), 1)
    for first in range(1, history.last_id + 1, size):
        last = min(first + size - 1, history.last_id)
        await pool.execute(
            _TRADES, history.symbol, history.start, history.step, history.last_id, history.holes, first, last
        )
    for piece in _slices(history):
        await pool.execute(_CANDLES, history.symbol, piece.start, piece.end)
    await pool.execute(
        _LEDGER, history.symbol, history.last_id, history.holes, history.start, history.time_of(history.last_id),
        history.trades, history.asked_until,
    )  # fmt: skip
    await pool.execute(_CANDLES_LEDGER, history.symbol, materialized, history.start, history.time_of(history.last_id))


def _slices(history: History) -> Iterator[TimeRange]:
    low = floor_minute(history.start)
    while low < history.end:
        yield TimeRange(low, min(low + _SLICE, floor_minute(history.end) + MINUTE))
        low += _SLICE


async def _compress(pool: asyncpg.Pool, before: datetime) -> None:
    await pool.execute("SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs")
    for table in ("trades", "candles"):
        chunks = await pool.fetch(
            "SELECT show_chunks($1::text::regclass, older_than => $2::timestamptz) AS chunk", table, before
        )
        names = [row["chunk"] for row in chunks]
        for at in range(0, len(names), _CHUNKS_AT_ONCE):
            await pool.execute(_COMPRESS, names[at : at + _CHUNKS_AT_ONCE])


_CHUNKS = "SELECT show_chunks($1::text::regclass, older_than => $2::timestamptz)::text AS chunk"
_COMPRESS = "SELECT compress_chunk(c::regclass) FROM unnest($1::text[]) AS c"


# An id is missing if n × (holes + 1) / last_id passes a whole number at it.
_TRADES = """
    INSERT INTO trades (id, symbol, timestamp, price, volume, side, order_type, misc)
    SELECT n, $1, $2::timestamptz + (n - 1) * $3::interval, 60000 + n % 100, 0.5, 'buy', 'market', ''
    FROM generate_series($6::bigint, $7::bigint) AS n
    WHERE NOT (n < $4::bigint AND n * ($5::bigint + 1) / $4 > (n - 1) * ($5 + 1) / $4)
"""

_CANDLES = """
    INSERT INTO candles (symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume,
                         trade_count, vwap, source, first_trade_id, last_trade_id)
    SELECT symbol, date_trunc('minute', timestamp, 'UTC'), 1, min(price), max(price), min(price), max(price),
           sum(volume), sum(price * volume), count(*), trunc(sum(price * volume) / sum(volume), 10), 'trades',
           min(id), max(id)
    FROM trades WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3 GROUP BY 1, 2 ORDER BY 2
"""

_LEDGER = """
    INSERT INTO data_sync_status
        (symbol, data_type, oldest_timestamp, newest_timestamp, total_records, id_ranges, time_ranges)
    SELECT $1, 'trades', $4, $5, $6,
           int8multirange(int8range(1, $2::bigint + 1)) - coalesce((
               SELECT range_agg(int8range(id, id + 1))
               FROM generate_series(1, $3::bigint) AS k, ceil(k::numeric * $2 / ($3 + 1)) AS c, CAST(c AS bigint) AS id
           ), '{}'),
           CASE WHEN $7::timestamptz > $5 THEN tstzmultirange(tstzrange($5, $7)) ELSE '{}' END
"""

_CANDLES_LEDGER = """
    INSERT INTO data_sync_status
        (symbol, data_type, oldest_timestamp, newest_timestamp, total_records, stale_ranges)
    SELECT $1, 'candles_1m', min(timestamp), max(timestamp), count(*), CASE WHEN $2 THEN tstzmultirange(tstzrange(
               date_trunc('hour', min(timestamp), 'UTC'), date_trunc('hour', max(timestamp), 'UTC') + interval '1 hour'
           )) ELSE '{}' END
    FROM candles WHERE symbol = $1 AND interval_minutes = 1
      AND timestamp >= $3::timestamptz - interval '1 minute' AND timestamp <= $4
"""
