"""Minutes in which a fuller candle of another source stands before the candle of the stored trades.

As long as trades of such a minute may be missing, the fuller candle is the better one. Once the ledger proves the
minute complete, its own candle is right, whatever number of trades the other candle claims. The minutes are kept in
``contested_minutes``, so that a proof that comes later finds them. They are few: a candle of another source is fuller
only if trades are missing, or if the exchange and its own tape disagree.

A minute becomes proven in three ways. Trades fill a hole, or extend the covered time: of the minutes before and after
them, that proves the nearest contested one at most, because a minute further away does not border on the same hole. A
page covers time. Or missing ids turn out to be absent; then all contested minutes are examined.

If the own candle has fewer trades, so do the longer candles above it. ``corrected_minutes`` records by how many;
otherwise, a refresh would take the difference for lost rows.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import asyncpg

from kraken_history.completeness.proven_time import find_proven_time
from kraken_history.database.connections import Connection, write_again
from kraken_history.database.time_bounds import DAY, WEEK, within
from kraken_history.intervals import Span
from kraken_history.records import MINUTE
from kraken_history.storing.announcing import announced_transaction
from kraken_history.storing.candle_changes import TouchedMinutes, note_touched
from kraken_history.storing.candle_rules import OF_TRADES, TRADE_IDS, VALUES, assigned
from kraken_history.storing.ledger_writing import lock_symbol

_NEAR = timedelta(hours=1)  # minutes that are nearer than this are examined together
_MOST_MINUTES = 1_000  # per symbol and call of `settle_symbol`; the newest
_MOST_SYMBOLS = 20  # per call of `settle_some`; each takes some queries


async def proven_minutes(connection: Connection, symbol: str, minutes: Iterable[datetime]) -> list[datetime]:
    """Those of the minutes that are proven complete, in order."""
    proven: list[datetime] = []
    for group in _groups(minutes):
        spans = await find_proven_time(connection, symbol, (group[0], group[-1] + MINUTE))
        proven += [minute for minute in group if _is_within(minute, spans)]
    return proven


def _groups(minutes: Iterable[datetime]) -> list[list[datetime]]:
    groups: list[list[datetime]] = []
    for minute in sorted(minutes):
        if groups and minute - groups[-1][-1] < _NEAR:
            groups[-1].append(minute)
        else:
            groups.append([minute])
    return groups


def _is_within(minute: datetime, spans: Sequence[Span]) -> bool:
    return any(start <= minute and minute + MINUTE <= end for start, end in spans)


async def contest(connection: Connection, minutes: Iterable[tuple[str, datetime]]) -> None:
    """Record minutes with stored trades, by symbol, whose candle is a fuller one of another source."""
    pairs = list(minutes)
    if pairs:
        await connection.execute(_CONTEST, [symbol for symbol, _ in pairs], [minute for _, minute in pairs])


async def settle(connection: Connection, symbol: str, span: Span | None = None) -> list[asyncpg.Record]:
    """Put the own candle into each contested minute that is proven complete; return the changed minutes.

    The symbol must be locked.

    Args:
        span: From the minute of the first to the minute of the last trade that was written. Only minutes within it,
            and the nearest one on each side, are examined. By default, all are.
    """
    minutes = await _contested(connection, symbol, span)
    proven = await proven_minutes(connection, symbol, minutes)
    return await put_own_candles(connection, symbol, proven) if proven else []


async def put_own_candles(connection: Connection, symbol: str, minutes: Sequence[datetime]) -> list[asyncpg.Record]:
    """Replace the candles of these minutes by those of their stored trades; return the changed minutes.

    A candle stays if no trade of its minute is stored: retention may have dropped them. The symbol must be locked, and
    the minutes must be proven complete.
    """
    statement = _PUT_OWN.format(
        of_trades=within("t.timestamp", min(minutes), max(minutes), DAY),
        of_candles=within("timestamp", min(minutes), max(minutes), WEEK),
        of_written=within("c.timestamp", min(minutes), max(minutes), WEEK),
    )
    return await connection.fetch(statement, symbol, minutes, min(minutes), max(minutes) + MINUTE)


async def settle_symbol(pool: asyncpg.Pool, symbol: str) -> int:
    """:func:`settle` all minutes of a symbol, in a transaction; return how many changed."""

    async def once() -> int:
        async with pool.acquire() as connection:
            if not await connection.fetchval(_IS_CONTESTED, symbol):
                return 0
            async with announced_transaction(connection):
                await lock_symbol(connection, symbol)
                return await settle_and_note(connection, symbol)

    return await write_again(once)


async def settle_and_note(connection: Connection, symbol: str, span: Span | None = None) -> int:
    """:func:`settle`, and record what changed; return the number of changed minutes. The symbol must be locked."""
    changed = TouchedMinutes()
    rows = await settle(connection, symbol, span)
    changed.add(rows)
    if changed:
        await note_touched(connection, changed)
    return len(rows)


async def settle_some(pool: asyncpg.Pool, after: str = "") -> str:
    """:func:`settle_symbol` for the next symbols with contested minutes, in case that a proof was overlooked.

    Args:
        after: What the last call returned.

    Returns:
        The last of these symbols, or an empty text if none are left, so that the next call begins again.
    """
    symbols = await pool.fetch(_NEXT_CONTESTED, after, _MOST_SYMBOLS)
    for row in symbols:
        await settle_symbol(pool, row["symbol"])
    return str(symbols[-1]["symbol"]) if len(symbols) == _MOST_SYMBOLS else ""


async def _contested(connection: Connection, symbol: str, span: Span | None) -> list[datetime]:
    if span is None:
        rows = await connection.fetch(_ALL_CONTESTED, symbol, _MOST_MINUTES)
    else:
        rows = await connection.fetch(_CONTESTED, symbol, *span)
    return [row["timestamp"] for row in rows]


_CONTEST = """
    INSERT INTO contested_minutes (symbol, timestamp)
    SELECT * FROM unnest($1::text[], $2::timestamptz[]) ON CONFLICT DO NOTHING
"""

_NEXT_CONTESTED = "SELECT DISTINCT symbol FROM contested_minutes WHERE symbol > $1 ORDER BY symbol LIMIT $2"

_IS_CONTESTED = "SELECT EXISTS (SELECT FROM contested_minutes WHERE symbol = $1)"

_ALL_CONTESTED = "SELECT timestamp FROM contested_minutes WHERE symbol = $1 ORDER BY timestamp DESC LIMIT $2"

_CONTESTED = """
    SELECT timestamp FROM contested_minutes
    WHERE symbol = $1
      AND timestamp >= coalesce(
          (SELECT max(timestamp) FROM contested_minutes WHERE symbol = $1 AND timestamp < $2), $2)
      AND timestamp <= coalesce(
          (SELECT min(timestamp) FROM contested_minutes WHERE symbol = $1 AND timestamp > $3), $3)
"""

NOTE_CORRECTED = """
    INSERT INTO corrected_minutes AS k (name, symbol, timestamp, trade_count)
    SELECT a.name, f.symbol, f.timestamp, f.trade_count FROM fewer f CROSS JOIN candle_aggregates a
    WHERE f.trade_count > 0
    ON CONFLICT (name, symbol, timestamp) DO UPDATE SET trade_count = k.trade_count + excluded.trade_count
"""
"""A statement for a ``WITH`` list that has ``fewer``: minutes, and how many trades less their candles have now."""

# Times are repeated as constants: segments of a compressed chunk that they exclude stay compressed.
_PUT_OWN = f"""
    WITH built AS MATERIALIZED (
        SELECT m.minute, {OF_TRADES}
        FROM unnest($2::timestamptz[]) AS m (minute)
        JOIN trades t ON t.timestamp >= m.minute AND t.timestamp < m.minute + interval '1 minute'
        WHERE t.symbol = $1 AND t.timestamp >= $3 AND t.timestamp < $4 AND {{of_trades}}
        GROUP BY m.minute
    ), before AS MATERIALIZED (
        SELECT timestamp, source, trade_count FROM candles
        WHERE symbol = $1 AND interval_minutes = 1 AND timestamp = ANY ($2) AND {{of_candles}}
    ), written AS (
        UPDATE candles c
        SET {assigned((*VALUES, "source", *TRADE_IDS), "b")}, stored_at = statement_timestamp()
        FROM built b
        WHERE c.timestamp = b.minute AND c.symbol = $1 AND c.interval_minutes = 1 AND c.source <> 'trades'
          AND c.timestamp = ANY ($2) AND {{of_written}}
        RETURNING c.symbol, c.timestamp, c.trade_count
    ), fewer AS (
        SELECT w.symbol, w.timestamp, b.trade_count - w.trade_count AS trade_count
        FROM written w JOIN before b USING (timestamp)
    ), corrected AS ({NOTE_CORRECTED}), settled AS (
        DELETE FROM contested_minutes WHERE symbol = $1 AND timestamp = ANY ($2)
    )
    SELECT w.symbol, w.timestamp, b.source::text AS source_before FROM written w JOIN before b USING (timestamp)
"""  # noqa: S608 — only constants are put in
