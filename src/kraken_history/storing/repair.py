"""Repairs what a verification found: duplicate trades, the ledger, one-minute candles, and longer candles.

The stored trades decide: candles are built from them again, and the ledger is made to say which of them there are. An
id without a row becomes missing, so that it is fetched again. Each transaction holds the lock of the symbol, as every
writer does, and looks again at what is wrong, so that a write meanwhile does no harm. One repair runs at a time.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import TypeVar

import asyncpg

from kraken_history.completeness.status_rows import update_row
from kraken_history.completeness.unheld import Change, Unheld, extended, runs_of
from kraken_history.completeness.unheld_rows import remove_absent, replace_unheld
from kraken_history.database.connections import Connection, write_again
from kraken_history.database.locks import holding
from kraken_history.errors import ServiceUnavailable
from kraken_history.intervals import bucket_end, bucket_start
from kraken_history.ledger import IdRanges
from kraken_history.records import MINUTE, TimeRange
from kraken_history.storing.aggregates import sole_refresher
from kraken_history.storing.announcing import announced_transaction
from kraken_history.storing.archived_months import note_changed_trades
from kraken_history.storing.candle_changes import note_candles
from kraken_history.storing.candle_checks import DROPPED, wrong_minutes
from kraken_history.storing.candle_rules import OF_TRADES, TRADE_IDS, VALUES
from kraken_history.storing.hole_bounds import fetch_of_piece, fill_hole_times
from kraken_history.storing.ledger_writing import lock_symbol, read_held
from kraken_history.storing.longer_intervals import Aggregate
from kraken_history.storing.materialized import open_keeper
from kraken_history.storing.partitions import ensure_partitions, find_pieces

T = TypeVar("T")

_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_BEFORE_THAT_WAS_KEPT = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_AT_ONCE = 1_000  # trades deleted per transaction
_MOST_WINDOWS = 100  # stretches of time in which trades beside lost ones are searched at once
_LOCK_KEY = 0x726570616972  # an arbitrary constant; all versions must use the same


class RepairIsRunning(ServiceUnavailable):
    """Another process is repairing. Only one may do so at a time."""


@asynccontextmanager
async def sole_repairer(pool: asyncpg.Pool) -> AsyncIterator[None]:
    """Hold the lock of the only process that may repair, from the verification on.

    Raises:
        RepairIsRunning: Another process has the lock.
    """
    async with pool.acquire() as connection, holding(connection, _LOCK_KEY, wait_s=0) as is_held:
        if not is_held:
            raise RepairIsRunning("another repair is running: wait for it, or try again later")
        yield


async def remove_repeated(pool: asyncpg.Pool, symbol: str, ids: IdRanges) -> list[datetime]:
    """Delete all rows of these ids but the first stored one of each; return the times of the deleted rows."""
    rows: list[asyncpg.Record] = []
    async with pool.acquire() as connection:
        for piece in await find_pieces(connection, "trades"):
            rows += await connection.fetch(_ROWS_OF_IDS, symbol, piece.start, piece.end, ids.as_multirange())
    rows.sort(key=lambda row: (row["id"], row["stored_at"] or _BEFORE_THAT_WAS_KEPT, row["timestamp"]))
    again = [row for first, row in pairwise(rows) if row["id"] == first["id"]]
    for at in range(0, len(again), _MOST_AT_ONCE):
        part = again[at : at + _MOST_AT_ONCE]
        times = [row["timestamp"] for row in part]
        await _locked(
            pool,
            symbol,
            partial(_delete_trades, symbol=symbol, times=times, ids=[row["id"] for row in part]),
        )
    return [row["timestamp"] for row in again]


async def _delete_trades(connection: Connection, *, symbol: str, times: Sequence[datetime], ids: Sequence[int]) -> None:
    await connection.execute(_DELETE_TRADES, symbol, times, ids, min(times), max(times))
    await note_changed_trades(connection, symbol, times)


async def remove_trade(pool: asyncpg.Pool, symbol: str, trade_id: int, reason: str) -> list[datetime]:
    """Delete a stored trade, keep it in ``removed_trades``, and rebuild its minute; return its time, or its times.

    Its id is missing afterwards if it lies between stored ones, so that Kraken's own trade of this id is fetched.
    """
    rows: list[asyncpg.Record] = []
    ids = IdRanges([(trade_id, trade_id + 1)])
    async with pool.acquire() as connection:
        for piece in await find_pieces(connection, "trades"):
            rows += await connection.fetch(_ROWS_OF_IDS, symbol, piece.start, piece.end, ids.as_multirange())
    times = [row["timestamp"] for row in rows]
    if times:
        await _locked(
            pool, symbol, partial(_remove, symbol=symbol, trade_id=trade_id, times=sorted(times), reason=reason)
        )
    # Also without a row: an earlier call may have ended in between.
    await correct_ledger(pool, symbol, ids, [], [], near=[TimeRange(at, at + MINUTE) for at in times])
    return times


async def _remove(
    connection: Connection, *, symbol: str, trade_id: int, times: Sequence[datetime], reason: str
) -> None:
    await connection.execute(_KEEP_REMOVED, symbol, trade_id, times[0], times[-1], reason)
    await _delete_trades(connection, symbol=symbol, times=times, ids=[trade_id] * len(times))
    for minute in sorted({bucket_start(moment, MINUTE) for moment in times}):
        window = symbol, [minute], minute, minute + MINUTE
        if not await connection.fetchval(_IS_OF_TRADES, symbol, minute):
            continue
        await connection.execute(_DELETE_MINUTES, *window)
        built = await connection.execute(_BUILD_MINUTES, *window)
        hour = bucket_start(minute, _HOUR)
        await note_candles(
            connection,
            {symbol: (minute, minute)},
            {symbol: 0 if built.endswith(" 1") else -1},
            {symbol: [TimeRange(hour, hour + _HOUR)]},
        )


async def join_ledger(pool: asyncpg.Pool, symbol: str, ids: IdRanges) -> None:
    """Add ids that have a row to the ledger."""
    rows: list[asyncpg.Record] = []
    async with pool.acquire() as connection:
        for piece in await find_pieces(connection, "trades"):
            rows += await connection.fetch(_ROWS_OF_IDS, symbol, piece.start, piece.end, ids.as_multirange())
    moments = {row["id"]: row["timestamp"] for row in rows}
    await _locked(pool, symbol, partial(_join, symbol=symbol, moments=moments))


async def _join(connection: Connection, *, symbol: str, moments: Mapping[int, datetime]) -> None:
    held = (await read_held(connection, {symbol: IdRanges.of(moments)}))[symbol]
    runs = runs_of((id_, moment) for id_, moment in moments.items() if id_ not in held.ids)
    if not runs:
        return
    change = extended(held.ends, held.unheld, runs)
    await connection.execute(_SET_ENDS, symbol, *change.lowest, *change.highest)
    await replace_unheld(connection, {symbol: change})
    await remove_absent(connection, {symbol: IdRanges((run.low, run.high + 1) for run in runs)})
    await connection.execute(_SET_TOTAL, symbol, sum(run.high + 1 - run.low for run in runs))


async def rebuild_minutes(pool: asyncpg.Pool, symbol: str, window: TimeRange) -> int:
    """Build the wrong one-minute candles of a window from their trades, a day per transaction; return their number.

    A candle of trades that are not stored is deleted, unless they were dropped. If no trade of any symbol is stored on
    its day, they probably were, and nobody recorded it: then the candle is all that is left of them, and stays.
    """
    changed = 0
    start = bucket_start(window.start, _DAY)
    while start < window.end:
        await ensure_partitions(pool, "candles", [start])
        changed += await _locked(pool, symbol, partial(_rebuild_day, symbol=symbol, day=start))
        start += _DAY
    return changed


async def _rebuild_day(connection: Connection, symbol: str, day: datetime) -> int:
    rows = await connection.fetch(wrong_minutes("$3"), day, day + _DAY, [symbol])
    if not rows or not await connection.fetchval(_ANY_TRADES, day, day + _DAY):
        return 0
    minutes = sorted(row["timestamp"] for row in rows)
    arguments = symbol, minutes, minutes[0], minutes[-1] + MINUTE
    new = sum(row["expected"] is not None for row in rows) - sum(row["found"] is not None for row in rows)
    await connection.execute(_DELETE_MINUTES, *arguments)
    await connection.execute(_BUILD_MINUTES, *arguments)
    hours = sorted({bucket_start(minute, _HOUR) for minute in minutes})
    stale = [TimeRange(hour, hour + _HOUR) for hour in hours]
    await note_candles(connection, {symbol: (minutes[0], minutes[-1])}, {symbol: new}, {symbol: stale})
    return len(minutes)


async def are_trades_stored(pool: asyncpg.Pool, window: TimeRange) -> bool:
    """True if on each day of a window trades of some symbol are stored. Otherwise those of a day were dropped."""
    day = bucket_start(window.start, _DAY)
    while day < window.end:
        if not await pool.fetchval(_ANY_TRADES, day, day + _DAY):
            return False
        day += _DAY
    return True


async def correct_ledger(
    pool: asyncpg.Pool,
    symbol: str,
    lost: IdRanges,
    times: Sequence[TimeRange],
    left: Sequence[TimeRange],
    *,
    near: Sequence[TimeRange] = (),
) -> None:
    """Make the ledger of a symbol say what is stored.

    Args:
        lost: Ids that have no row. They become missing, so that they are fetched again.
        times: When these trades were made. This time counts as covered no longer.
        left: When other lost trades were made, which stay in the ledger.
        near: When the lost trades were made, if that time stays covered.
    """
    ranges = _multirange(times)
    beside = await _times_beside(pool, symbol, lost, [*times, *near])
    async with pool.acquire() as connection:
        oldest, newest = await _extent_of_trades(connection, symbol)

    async def correct(connection: Connection) -> None:
        await _drop_ids(connection, symbol, lost, beside)
        await connection.execute(_UNCOVER, symbol, ranges)
        ledger = await connection.fetchrow(_TIMES_OF_LEDGER, symbol)
        assert ledger is not None  # it is locked
        bounds = []
        for name, computed in (("oldest", oldest), ("newest", newest)):
            # Live trades move it. It is right if it has a row, or had one that was dropped.
            is_right = (
                ledger[f"{name}_is_dropped"]
                or any(each.start <= ledger[name] < each.end for each in left if ledger[name] is not None)
                or await connection.fetchval(_HAS_TRADE, symbol, ledger[name])
            )
            bounds.append([each for each in (ledger[name] if is_right else None, computed) if each is not None])
        await connection.execute(_SET_TIMES, symbol, min(bounds[0], default=None), max(bounds[1], default=None))
        candles = await connection.fetchrow(_COUNT_CANDLES, symbol)
        if candles is not None:
            await update_row(connection, symbol, "candles_1m", _CORRECT_CANDLES, *candles)

    await _locked(pool, symbol, correct)
    await fill_hole_times(pool)


async def _drop_ids(connection: Connection, symbol: str, lost: IdRanges, times: Mapping[int, datetime]) -> None:
    """Take ids out of the ledger. The symbol must be locked.

    Args:
        times: Times of stored trades beside them, by id, as far as they are known.
    """
    ledger = await connection.fetchrow(_WHOLE_LEDGER, symbol)
    assert ledger is not None  # it is locked
    held = IdRanges((r.lower, r.upper) for r in ledger["held"])
    left = held - lost
    if left == held:
        await connection.execute(_SET_TOTAL, symbol, 0)
        return
    before = [Unheld(*row) for row in await connection.fetch(_ALL_UNHELD, symbol)]
    known: dict[int, datetime | None] = {**times}
    known |= {each.first - 1: each.after for each in before} | {each.stop: each.before for each in before}
    known |= {ledger["lowest_id"]: ledger["lowest_time"], ledger["highest_id"]: ledger["highest_time"]}
    after = [Unheld(first, stop, known.get(first - 1), known.get(stop)) for first, stop in left.holes]
    stays = {(each.first, each.stop) for each in before} & {(each.first, each.stop) for each in after}
    lowest, highest = (left.ranges[0][0], left.ranges[-1][1] - 1) if left else (None, None)
    change = Change(
        [each for each in before if (each.first, each.stop) not in stays],
        [each for each in after if (each.first, each.stop) not in stays],
        (lowest or 0, None),
        (highest or 0, None),
    )
    await replace_unheld(connection, {symbol: change})
    ends = [known.get(each) if each is not None else None for each in (lowest, highest)]
    await connection.execute(_SET_ENDS, symbol, lowest, ends[0], highest, ends[1])
    await connection.execute(_SET_TOTAL, symbol, len(left) - len(held))


async def _times_beside(
    pool: asyncpg.Pool, symbol: str, lost: IdRanges, near: Sequence[TimeRange]
) -> dict[int, datetime]:
    """By id, the times of stored trades next to lost ones, searched where these were made; a few may not be found."""
    ids = sorted({id_ for first, stop in lost for id_ in (first - 1, stop)})
    windows: list[TimeRange] = []
    for each in sorted(near, key=lambda each: each.start):
        start, end = each.start - _HOUR, each.end + _HOUR
        if windows and start <= windows[-1].end:
            windows[-1] = TimeRange(windows[-1].start, max(end, windows[-1].end))
        else:
            windows.append(TimeRange(start, end))
    found: dict[int, datetime] = {}
    for window in windows[:_MOST_WINDOWS]:
        rows = await fetch_of_piece(pool, _TIMES_OF_IDS, symbol, window.start, window.end, ids)
        found |= {row["id"]: row["timestamp"] for row in rows}
    return found


async def _extent_of_trades(connection: Connection, symbol: str) -> tuple[datetime | None, datetime | None]:
    """Times of a symbol's oldest and newest stored trade, read piece by piece: see :func:`find_pieces`."""
    pieces = await find_pieces(connection, "trades")
    found: list[datetime | None] = []
    for name, order in (("oldest", pieces), ("newest", pieces[::-1])):
        moment: datetime | None = None
        for piece in order:
            row = await connection.fetchrow(_EXTENT_OF_PIECE, symbol, piece.start, piece.end)
            moment = None if row is None else row[name]
            if moment is not None:
                break
        found.append(moment)
    return found[0], found[1]


async def replace_longer(
    pool: asyncpg.Pool,
    wrong: Iterable[tuple[Aggregate, str, TimeRange]],
    kept: Mapping[str, Sequence[TimeRange]],
    *,
    wait_s: float = 0,
) -> None:
    """Compute stored longer candles again, each window in one transaction.

    Args:
        wrong: The windows, by interval and symbol, each interval after its source.
        kept: By symbol, the time whose trades are lost. A longer candle of it that has more trades than its minutes
            stays, because nothing proves the minutes.
        wait_s: Seconds to wait for a refresh to end.

    Raises:
        RefreshIsRunning: A refresh is running, and did not end in time.
    """
    async with sole_refresher(pool, wait_s=wait_s) as connection:
        keeper = await open_keeper(connection)
        for aggregate, symbol, window in wrong:
            buckets = TimeRange(bucket_start(window.start, aggregate.width), bucket_end(window.end, aggregate.width))
            await keeper.replace(aggregate, symbol, buckets, _multirange(kept.get(symbol, ())))


def _multirange(ranges: Iterable[TimeRange]) -> str:
    return "{" + ",".join(f"[{each.start.isoformat()},{each.end.isoformat()})" for each in ranges) + "}"


async def _locked(pool: asyncpg.Pool, symbol: str, write: Callable[[Connection], Awaitable[T]]) -> T:
    """Call ``write`` in a transaction that holds the symbol's lock."""

    async def write_once() -> T:
        async with pool.acquire() as connection, announced_transaction(connection):
            await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")  # a generic plan locks all pieces
            await lock_symbol(connection, symbol)
            return await write(connection)

    return await write_again(write_once)


_ROWS_OF_IDS = """
    SELECT timestamp, id, stored_at FROM trades
    WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3 AND id <@ $4::text::int8multirange
"""

_DELETE_TRADES = """
    DELETE FROM trades t USING unnest($2::timestamptz[], $3::bigint[]) AS d (timestamp, id)
    WHERE t.symbol = $1 AND t.timestamp = d.timestamp AND t.id = d.id AND t.timestamp BETWEEN $4 AND $5
"""

_KEEP_REMOVED = """
    INSERT INTO removed_trades (symbol, id, timestamp, price, volume, side, order_type, misc, reason)
    SELECT symbol, id, timestamp, price, volume, side, order_type, misc, $5 FROM trades
    WHERE symbol = $1 AND id = $2 AND timestamp BETWEEN $3 AND $4
"""

_IS_OF_TRADES = """
    SELECT source = 'trades' FROM candles WHERE symbol = $1 AND interval_minutes = 1 AND timestamp = $2
"""

_TIMES_OF_IDS = """
    SELECT id, min(timestamp) AS timestamp FROM trades
    WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3 AND id = ANY ($4::bigint[]) GROUP BY id
"""

_WHOLE_LEDGER = """
    SELECT held_ids(symbol) AS held, lowest_id, lowest_time, highest_id, highest_time
    FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'
"""

_ALL_UNHELD = """
    SELECT first_id, stop_id, after_time, before_time FROM unheld_ids WHERE symbol = $1 ORDER BY first_id
"""

_SET_ENDS = """
    UPDATE data_sync_status SET lowest_id = $2, lowest_time = $3, highest_id = $4, highest_time = $5
    WHERE symbol = $1 AND data_type = 'trades'
"""

# Each id stands for a row. Where retention dropped rows, there are fewer of them than ids, and $2 says how many more
# there are now.
_SET_TOTAL = f"""
    WITH dropped AS MATERIALIZED ({DROPPED})
    UPDATE data_sync_status s
    SET total_records = CASE
        WHEN (SELECT of_trades FROM dropped) = '{{}}' THEN coalesce(s.highest_id - s.lowest_id + 1 - (
            SELECT coalesce(sum(u.stop_id - u.first_id), 0) FROM unheld_ids u WHERE u.symbol = $1
        ), 0)
        ELSE greatest(s.total_records + $2, 0) END
    WHERE s.symbol = $1 AND s.data_type = 'trades'
"""  # noqa: S608 — only constants are put in

_UNCOVER = """
    UPDATE data_sync_status SET time_ranges = time_ranges - $2::text::tstzmultirange
    WHERE symbol = $1 AND data_type = 'trades'
"""

_TIMES_OF_LEDGER = f"""
    WITH dropped AS MATERIALIZED ({DROPPED})
    SELECT s.oldest_timestamp AS oldest, s.newest_timestamp AS newest,
           coalesce(s.oldest_timestamp <@ of_trades, false) AS oldest_is_dropped,
           coalesce(s.newest_timestamp <@ of_trades, false) AS newest_is_dropped
    FROM data_sync_status s CROSS JOIN dropped WHERE s.symbol = $1 AND s.data_type = 'trades'
"""  # noqa: S608 — only constants are put in

_ANY_TRADES = "SELECT EXISTS (SELECT FROM trades WHERE timestamp >= $1 AND timestamp < $2)"

_HAS_TRADE = "SELECT EXISTS (SELECT FROM trades WHERE symbol = $1 AND timestamp = $2)"

_SET_TIMES = """
    UPDATE data_sync_status SET oldest_timestamp = $2, newest_timestamp = $3
    WHERE symbol = $1 AND data_type = 'trades'
"""

_EXTENT_OF_PIECE = """
    SELECT min(timestamp) AS oldest, max(timestamp) AS newest
    FROM trades WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3
"""

_COUNT_CANDLES = """
    SELECT min(timestamp) AS oldest, max(timestamp) AS newest, count(*) AS count
    FROM candles WHERE symbol = $1 AND interval_minutes = 1 HAVING count(*) > 0
"""

_DROPPED_CANDLES = f"(WITH dropped AS ({DROPPED}) SELECT of_candles FROM dropped)"  # noqa: S608 — a constant is put in

_CORRECT_CANDLES = f"""
    oldest_timestamp = least($3::timestamptz, CASE
        WHEN s.oldest_timestamp <@ {_DROPPED_CANDLES} THEN s.oldest_timestamp END),
    newest_timestamp = greatest($4::timestamptz, CASE
        WHEN s.newest_timestamp <@ {_DROPPED_CANDLES} THEN s.newest_timestamp END),
    total_records = CASE WHEN {_DROPPED_CANDLES} = '{{}}' THEN $5::bigint ELSE s.total_records END
"""

_COLUMNS = ", ".join((*VALUES, "source", *TRADE_IDS))

_DELETE_MINUTES = """
    DELETE FROM candles
    WHERE symbol = $1 AND interval_minutes = 1 AND timestamp = ANY ($2) AND timestamp >= $3 AND timestamp < $4
"""

_BUILD_MINUTES = f"""
    INSERT INTO candles (symbol, timestamp, interval_minutes, {_COLUMNS})
    SELECT $1, minute, 1, {_COLUMNS} FROM (
        SELECT date_trunc('minute', t.timestamp, 'UTC') AS minute, {OF_TRADES}
        FROM trades t WHERE t.symbol = $1 AND t.timestamp >= $3 AND t.timestamp < $4 GROUP BY 1
    ) AS built
    WHERE minute = ANY ($2)
"""  # noqa: S608 — only constants are put in
