"""The content of the database."""

import asyncpg

from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalCandle, HistoricalTrade


async def stored_trades(pool: asyncpg.Pool) -> list[HistoricalTrade]:
    """All trades, by symbol and id."""
    rows = await pool.fetch(
        "SELECT id, symbol, timestamp, price, volume, side::text, order_type, coalesce(misc, '') AS misc"
        " FROM trades ORDER BY symbol, id"
    )
    return [HistoricalTrade(*row) for row in rows]


async def stored_ids(pool: asyncpg.Pool) -> list[int]:
    """The ids of all trades, in order, repeats included."""
    return [row["id"] for row in await pool.fetch("SELECT id FROM trades ORDER BY symbol, id")]


async def stored_candles(pool: asyncpg.Pool) -> list[HistoricalCandle]:
    """All candles, by symbol and time."""
    rows = await pool.fetch(
        "SELECT symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume, trade_count, vwap"
        ", source"
        " FROM candles ORDER BY symbol, timestamp"
    )
    return [HistoricalCandle(*row) for row in rows]


async def ledger(pool: asyncpg.Pool) -> dict[str, IdRanges]:
    """Symbol → the ids in the ledger."""
    rows = await pool.fetch("SELECT symbol, held_ids(symbol) AS ids FROM data_sync_status WHERE data_type = 'trades'")
    return {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["ids"]) for row in rows}


async def deadlock(pool: asyncpg.Pool, *, times: int) -> None:
    """Make the next transactions that write candles fail as if they had lost a deadlock."""
    await pool.execute(f"""
        CREATE SEQUENCE losses;
        CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('losses') <= {times} THEN RAISE 'deadlock detected' USING ERRCODE = '40P01'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER lose BEFORE INSERT ON candles FOR EACH ROW EXECUTE FUNCTION lose();
    """)
