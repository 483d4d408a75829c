"""Trade ids that REST cannot show.

A page of REST Trades has 1,000 rows, and begins at an instant, not at an id. If more trades share one instant, those
after the first 1,000 are out of reach. Their ids are missing, but are not requested again: unless the WebSocket brought
them, they stay missing.
"""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from kraken_history.database.connections import Connection
from kraken_history.ledger import IdRanges
from kraken_history.records import UnreachableTrades

REASON = "Kraken has more than 1,000 trades of this instant, and its REST API shows only the first 1,000"


async def note_unreachable(connection: Connection, unreachable: Sequence[UnreachableTrades]) -> None:
    """Record that REST does not show these trades."""
    for each in unreachable:
        await connection.execute(
            """
            INSERT INTO unreachable_trades AS u (symbol, timestamp, ids)
            VALUES ($1, $2, int8multirange(int8range($3, $4, '[]')))
            ON CONFLICT (symbol, timestamp) DO UPDATE SET ids = u.ids + excluded.ids
            """,
            each.symbol,
            each.timestamp,
            each.first_id,
            each.last_id,
        )


async def find_unreachable(pool: asyncpg.Pool) -> dict[str, IdRanges]:
    """By symbol, the ids that REST does not show; some of them may be stored."""
    rows = await pool.fetch(
        "SELECT symbol, range_agg(r) AS ids FROM unreachable_trades u, unnest(u.ids) AS r GROUP BY symbol"
    )
    return {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["ids"]) for row in rows}


async def find_unreachable_of(pool: asyncpg.Pool | Connection, symbols: Sequence[str]) -> dict[str, IdRanges]:
    """As :func:`find_unreachable`, of these symbols."""
    rows = await pool.fetch(
        """
        SELECT symbol, range_agg(r) AS ids FROM unreachable_trades u, unnest(u.ids) AS r
        WHERE symbol = ANY ($1) GROUP BY symbol
        """,
        list(symbols),
    )
    return {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["ids"]) for row in rows}


async def find_unreachable_instants(
    connection: Connection, symbol: str, start: datetime, end: datetime
) -> list[datetime]:
    """The instants of ``[start, end)`` of which REST cannot show every trade, and some are missing; in order."""
    rows = await connection.fetch(
        """
        SELECT u.timestamp FROM unreachable_trades u
        WHERE u.symbol = $1 AND u.timestamp >= $2 AND u.timestamp < $3
          AND u.ids && missing_within(u.symbol, lower(u.ids), upper(u.ids))
        ORDER BY u.timestamp
        """,
        symbol,
        start,
        end,
    )
    return [row["timestamp"] for row in rows]
