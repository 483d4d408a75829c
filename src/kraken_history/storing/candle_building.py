"""Rebuilds one-minute candles from the stored trades of a time range."""

from datetime import UTC, datetime, timedelta

import asyncpg

from kraken_history.completeness.proven_time import as_multirange, find_proven_time
from kraken_history.records import MINUTE, floor_minute
from kraken_history.storing.announcing import announced_transaction
from kraken_history.storing.candle_changes import TouchedMinutes, note_touched
from kraken_history.storing.candle_rules import OF_TRADES, TRADE_IDS, VALUES, assigned, is_full_enough, row
from kraken_history.storing.contested import NOTE_CORRECTED
from kraken_history.storing.ledger_writing import lock_symbol
from kraken_history.storing.partitions import ensure_partitions

_DAY = timedelta(days=1)
_TICK = timedelta(microseconds=1)


async def build_candles_from_trades(pool: asyncpg.Pool, symbol: str, start: datetime, end: datetime) -> int:
    """Rebuild the one-minute candles of ``[start, end)`` from the stored trades; return how many changed.

    Every write updates its candles, so this is needed only for rows that were changed by hand. A minute that the range
    cuts is rebuilt completely. A fuller candle is not replaced, because trades may have been dropped, unless it is one
    of another source and the ledger proves that all trades of its minute are stored.
    """
    changed = 0
    day = floor_minute(start.astimezone(UTC))
    while day < end:
        next_day = min(day.replace(hour=0, minute=0) + _DAY, floor_minute(end.astimezone(UTC) + MINUTE - _TICK))
        changed += await _build_candles(pool, symbol, day, next_day)
        day = next_day
    return changed


async def _build_candles(pool: asyncpg.Pool, symbol: str, start: datetime, end: datetime) -> int:
    async with pool.acquire() as connection:
        if not await connection.fetchval(_HAS_TRADES, symbol, start, end):
            return 0
        await ensure_partitions(connection, "candles", [start])
        async with announced_transaction(connection):
            await lock_symbol(connection, symbol)
            proven = as_multirange(await find_proven_time(connection, symbol, (start, end)))
            rows = await connection.fetch(_BUILD_CANDLES, symbol, start, end, proven)
            changed = TouchedMinutes()
            changed.add(rows)
            if changed:
                await note_touched(connection, changed)
    return len(rows)


_HAS_TRADES = "SELECT EXISTS (SELECT FROM trades WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3)"

_COLUMNS = (*VALUES, "source", *TRADE_IDS)
_NAMES = ", ".join(_COLUMNS)

_BUILD_CANDLES = f"""
    WITH built AS MATERIALIZED (
        SELECT date_trunc('minute', t.timestamp, 'UTC') AS minute, {OF_TRADES}
        FROM trades t WHERE t.symbol = $1 AND t.timestamp >= $2 AND t.timestamp < $3 GROUP BY 1
    ), before AS MATERIALIZED (
        SELECT timestamp, source, trade_count FROM candles
        WHERE symbol = $1 AND interval_minutes = 1 AND timestamp >= $2 AND timestamp < $3
    ), written AS (
        INSERT INTO candles AS c (symbol, timestamp, interval_minutes, {_NAMES})
        SELECT $1, minute, 1, {_NAMES} FROM built
        ON CONFLICT (timestamp, symbol, interval_minutes) DO UPDATE SET
            {assigned(_COLUMNS, "excluded")}, stored_at = excluded.stored_at
        WHERE ({is_full_enough("excluded", "c")} OR c.source <> 'trades'
               AND tstzrange(c.timestamp, c.timestamp + interval '1 minute') <@ $4::text::tstzmultirange)
          AND {row(_COLUMNS, "c")} IS DISTINCT FROM {row(_COLUMNS, "excluded")}
        RETURNING c.symbol, c.timestamp, c.trade_count
    ), fewer AS (
        SELECT w.symbol, w.timestamp, b.trade_count - w.trade_count AS trade_count
        FROM written w JOIN before b USING (timestamp)
    ), corrected AS ({NOTE_CORRECTED}), settled AS (
        DELETE FROM contested_minutes k USING written w WHERE k.symbol = w.symbol AND k.timestamp = w.timestamp
    )
    SELECT w.symbol, w.timestamp, b.source::text AS source_before
    FROM written w LEFT JOIN before b USING (timestamp)
"""  # noqa: S608 — only constants are put in
