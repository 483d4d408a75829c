"""Trades that wait until Kraken confirms them, because their ids leap absurdly far from the stored ones.

See :mod:`~kraken_history.leaps` for the bound. Stored at once, such a trade would leave a hole of up to
4.6e18 missing ids, and a wrong candle.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import asyncpg
from msgspec import Struct
from msgspec.structs import astuple

from kraken_history.database.connections import Connection
from kraken_history.leaps import find_leaping
from kraken_history.records import HistoricalTrade
from kraken_history.storing.ledger_writing import Held

MOST_WAITING = 1_000
"""Number of waiting trades per symbol at which no more are kept. If those are confirmed, the others are missing ids,
which are fetched."""

ASKED_AFTER = timedelta(seconds=5)
"""How long a trade waits before Kraken is asked: its REST API may show a trade a little later than its WebSocket."""

ASKED_AGAIN_AFTER = timedelta(minutes=1)
"""How long after a page without the trade Kraken is asked again; after a second one the trade is unknown."""


class WaitingTrade(Struct, frozen=True):
    """A trade that waits.

    Attributes:
        is_unknown: True if a page that must show it did not, long enough ago to ask again.
    """

    trade: HistoricalTrade
    is_unknown: bool


async def hold_back(
    connection: Connection, by_symbol: Mapping[str, Sequence[HistoricalTrade]], held: Mapping[str, Held]
) -> tuple[dict[str, Sequence[HistoricalTrade]], list[HistoricalTrade]]:
    """Keep the trades that leap in the database, apart from the others; return the others, and those that are new.

    The symbols must be locked.
    """
    certain: dict[str, Sequence[HistoricalTrade]] = {}
    leaping: dict[tuple[str, int], HistoricalTrade] = {}
    for symbol, trades in by_symbol.items():
        ids = find_leaping(trades, lowest=held[symbol].lowest, highest=held[symbol].highest)
        leaping |= {(symbol, trade.id): trade for trade in trades if trade.id in ids}
        rest = [trade for trade in trades if trade.id not in ids] if ids else trades
        if rest:
            certain[symbol] = rest
    return certain, await _keep(connection, leaping) if leaping else []


async def _keep(connection: Connection, leaping: Mapping[tuple[str, int], HistoricalTrade]) -> list[HistoricalTrade]:
    columns = zip(*(astuple(trade) for trade in leaping.values()), strict=True)
    rows = await connection.fetch(_KEEP, *map(list, columns), MOST_WAITING)
    return [leaping[row["symbol"], row["id"]] for row in rows]


_KEEP = """
    INSERT INTO waiting_trades AS w (id, symbol, timestamp, price, volume, side, order_type, misc)
    SELECT o.* FROM unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::numeric[], $5::numeric[], $6::text[],
                           $7::text[], $8::text[]) AS o (id, symbol, timestamp, price, volume, side, order_type, misc)
    WHERE (SELECT count(*) FROM waiting_trades x WHERE x.symbol = o.symbol) < $9
    ORDER BY o.symbol, o.id LIMIT $9
    ON CONFLICT (symbol, id) DO NOTHING
    RETURNING w.symbol, w.id
"""


async def find_waiting_symbols(pool: asyncpg.Pool) -> list[str]:
    """The symbols of which a trade waits to be asked about."""
    rows = await pool.fetch(_DUE_SYMBOLS, ASKED_AFTER, ASKED_AGAIN_AFTER)
    return [row["symbol"] for row in rows]


_IS_DUE = "coalesce(unknown_at + $2::interval, first_seen + $1::interval) <= now()"

_DUE_SYMBOLS = f"SELECT DISTINCT symbol FROM waiting_trades WHERE {_IS_DUE} ORDER BY symbol"  # noqa: S608 — constants


async def find_waiting_trades(pool: asyncpg.Pool, symbol: str) -> list[WaitingTrade]:
    """The trades of one symbol about which Kraken is to be asked now, in order of time."""
    rows = await pool.fetch(_DUE, ASKED_AFTER, ASKED_AGAIN_AFTER, symbol)
    return [WaitingTrade(HistoricalTrade(*row[:-1]), row["is_unknown"]) for row in rows]


_DUE = f"""
    SELECT id, symbol, timestamp, price, volume, side, order_type, misc, unknown_at IS NOT NULL AS is_unknown
    FROM waiting_trades WHERE symbol = $3 AND {_IS_DUE} ORDER BY timestamp, id
"""  # noqa: S608 — a constant is put in


async def note_unknown(pool: asyncpg.Pool, symbol: str, ids: Sequence[int]) -> None:
    """Record that a page that must show these trades did not."""
    await pool.execute(
        "UPDATE waiting_trades SET unknown_at = now() WHERE symbol = $1 AND id = ANY ($2)", symbol, list(ids)
    )


async def forget_waiting(pool: asyncpg.Pool, symbol: str, ids: Sequence[int] = ()) -> None:
    """Delete waiting trades: these, and those that are stored meanwhile."""
    await pool.execute(
        """
        DELETE FROM waiting_trades w WHERE w.symbol = $1 AND (w.id = ANY ($2) OR is_held(w.symbol, w.id))
        """,
        symbol,
        list(ids),
    )
