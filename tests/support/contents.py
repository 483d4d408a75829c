"""The content of a database, for comparisons."""

from datetime import datetime

import asyncpg
from msgspec import Struct

from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalCandle, HistoricalTrade

TRADE_COLUMNS = ", ".join(HistoricalTrade.__struct_fields__)
CANDLE_COLUMNS = ", ".join(HistoricalCandle.__struct_fields__)


class StoredCandle(Struct, frozen=True):
    """A candle with its source, and the trades that it was built from if it was."""

    candle: HistoricalCandle
    source: str
    first_trade_id: int | None
    last_trade_id: int | None


async def stored_trades(pool: asyncpg.Pool) -> list[HistoricalTrade]:
    rows = await pool.fetch(f"SELECT {TRADE_COLUMNS} FROM trades ORDER BY symbol, id, timestamp")  # noqa: S608
    return [HistoricalTrade(*row) for row in rows]


async def stored_candles(pool: asyncpg.Pool) -> list[StoredCandle]:
    rows = await pool.fetch(
        f"SELECT {CANDLE_COLUMNS}, source::text, first_trade_id, last_trade_id FROM candles ORDER BY symbol, timestamp"  # noqa: S608
    )
    width = len(HistoricalCandle.__struct_fields__)
    return [StoredCandle(HistoricalCandle(*row[:width]), *row[width:]) for row in map(tuple, rows)]


async def only_candle(pool: asyncpg.Pool) -> StoredCandle:
    (candle,) = await stored_candles(pool)
    return candle


async def ledger(pool: asyncpg.Pool) -> dict[str, IdRanges]:
    """Symbol → the stored ids."""
    rows = await pool.fetch("SELECT symbol, id_ranges FROM data_sync_status WHERE data_type = 'trades'")
    return {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["id_ranges"]) for row in rows}


async def sync_status(pool: asyncpg.Pool, symbol: str, data_type: str) -> asyncpg.Record | None:
    return await pool.fetchrow("SELECT * FROM data_sync_status WHERE symbol = $1 AND data_type = $2", symbol, data_type)


async def stale_hours(pool: asyncpg.Pool, symbol: str) -> list[tuple[datetime, datetime]]:
    """The time of a symbol that is marked for the next refresh."""
    ranges = await pool.fetchval(
        "SELECT coalesce(range_agg(tstzrange(start_time, end_time)), '{}') FROM stale_hours WHERE symbol = $1", symbol
    )
    return [(each.lower, each.upper) for each in ranges]


async def everything(pool: asyncpg.Pool) -> tuple[object, ...]:
    """Everything that writing market data can change, except the time of the write."""
    status = await pool.fetch(
        """
        SELECT symbol, data_type, oldest_timestamp, newest_timestamp, total_records, id_ranges::text,
               absent_id_ranges::text, time_ranges::text, last_kraken_since
        FROM data_sync_status ORDER BY symbol, data_type
        """
    )
    marks = await pool.fetch(
        "SELECT symbol, range_agg(tstzrange(start_time, end_time))::text FROM stale_hours GROUP BY 1 ORDER BY 1"
    )
    return await stored_trades(pool), await stored_candles(pool), [tuple(row) for row in [*status, *marks]]
