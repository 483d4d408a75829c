"""Compares the counts and the times of the ledger with what is stored."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import asyncpg

from kraken_history.database.connections import Connection
from kraken_history.reading.differences import Difference, What, instant_text
from kraken_history.records import MINUTE
from kraken_history.storing.candle_checks import DROPPED


async def wrong_ledgers(
    connection: Connection, symbols: Sequence[str], counted: Mapping[str, int] | None
) -> list[Difference]:
    """The differences between the ledgers of these symbols and what is stored.

    Args:
        counted: By symbol, the one-minute candles that were counted window by window; None if not all were. If a
            count is not that of the ledger, it is repeated in one snapshot, because candles were stored meanwhile.
    """
    found: list[Difference] = []
    for row in await connection.fetch(_LEDGERS, list(symbols)):
        if row["data_type"] == "trades":
            found += _wrong_trade_count(row)
            found += await _wrong_times(connection, row, "trade_extent", _HAS_TRADE)
        else:
            if counted is not None and not row["is_dropped"]:
                found += await _wrong_count(connection, row, counted.get(row["symbol"], 0))
            found += await _wrong_times(connection, row, "candle_extent", _HAS_CANDLE)
    return found


def _wrong_trade_count(row: asyncpg.Record) -> list[Difference]:
    """Each id stands for a row. If retention has dropped some, there are fewer rows than ids."""
    told, ids = row["total_records"], row["held"]
    if told == ids or (row["is_dropped"] and told < ids):
        return []
    return [_difference(row, "trade_total", f"the ledger counts {told:,} trades, and has {ids:,} ids")]


async def _wrong_count(connection: Connection, row: asyncpg.Record, counted: int) -> list[Difference]:
    if counted == row["total_records"]:
        return []
    stored = await connection.fetchval(_COUNT_CANDLES, row["symbol"])
    if stored == row["total_records"]:
        return []
    detail = f"the ledger counts {row['total_records']:,} candles, {stored:,} are stored"
    return [_difference(row, "candle_total", detail)]


async def _wrong_times(connection: Connection, row: asyncpg.Record, what: What, query: str) -> list[Difference]:
    found = []
    for name in ("oldest", "newest"):
        moment: datetime | None = row[name]
        if moment is None or row[f"{name}_is_dropped"] or await connection.fetchval(query, row["symbol"], moment):
            continue
        rows = "trade" if what == "trade_extent" else "candle"
        detail = f"the ledger's {name} {rows} is at {instant_text(moment)}, where none is stored"
        found.append(Difference(row["symbol"], what, moment, moment + MINUTE, detail))
    return found


def _difference(row: asyncpg.Record, what: What, detail: str) -> Difference:
    start = row["oldest"] or row["last_sync_at"]
    return Difference(row["symbol"], what, start, (row["newest"] or start) + MINUTE, detail)


_LEDGERS = f"""
    WITH dropped AS MATERIALIZED ({DROPPED})
    SELECT s.symbol, s.data_type, s.total_records, s.oldest_timestamp AS oldest, s.newest_timestamp AS newest,
           s.last_sync_at, d.ranges <> '{{}}' AS is_dropped,
           coalesce(s.oldest_timestamp <@ d.ranges, false) AS oldest_is_dropped,
           coalesce(s.newest_timestamp <@ d.ranges, false) AS newest_is_dropped,
           coalesce(s.highest_id - s.lowest_id + 1 - (
               SELECT coalesce(sum(u.stop_id - u.first_id), 0) FROM unheld_ids u WHERE u.symbol = s.symbol
           ), 0)::bigint AS held
    FROM data_sync_status s
    CROSS JOIN LATERAL (
        SELECT CASE s.data_type WHEN 'trades' THEN of_trades ELSE of_candles END AS ranges FROM dropped
    ) AS d
    WHERE s.symbol = ANY ($1) AND s.data_type IN ('trades', 'candles_1m')
    ORDER BY s.symbol, s.data_type
"""  # noqa: S608 — a constant is put in

_HAS_TRADE = "SELECT EXISTS (SELECT FROM trades WHERE symbol = $1 AND timestamp = $2)"

_HAS_CANDLE = """
    SELECT EXISTS (SELECT FROM candles WHERE symbol = $1 AND interval_minutes = 1 AND timestamp = $2)
"""

_COUNT_CANDLES = "SELECT count(*) FROM candles WHERE symbol = $1 AND interval_minutes = 1"
