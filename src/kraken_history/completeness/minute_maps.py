"""Which minutes of a day have a one-minute candle, by the candle's source: kept in ``minute_maps``, or read anew.

A kept map is exact: every write of candles deletes the maps of the days that it changes, in its own transaction. Days
without one, among them the present day, are read from the candles.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import asyncpg
from msgspec import Struct

from kraken_history.completeness.hole_search import DAY
from kraken_history.database.connections import Connection
from kraken_history.intervals import Span, bucket_end, bucket_start
from kraken_history.records import MINUTE

MINUTES = DAY // MINUTE
FULL = (1 << MINUTES) - 1
"""A mask of all minutes. The first minute of a day is the highest bit, as in PostgreSQL's ``bit``."""

_LONGEST_READ = timedelta(days=60)  # of candles by one query, which bounds the chunks that it locks


class MinuteMap(Struct, frozen=True, gc=False):
    """The minutes of a day that have a candle, as masks of 1,440 bits: of trades, of the exchange, and of downloads."""

    built: int = 0
    sent: int = 0
    imported: int = 0


NO_CANDLES = MinuteMap()


async def read_maps(connection: Connection, symbol: str, span: Span) -> dict[datetime, MinuteMap]:
    """The maps of all days that ``span`` touches, by the start of the day; a day without candles may be left out.

    Of days that are not kept, only the minutes that ``span`` touches are read. Call this in a transaction whose
    isolation is repeatable read.
    """
    first, last = bucket_start(span[0], DAY), bucket_end(span[1], DAY)
    rows = await connection.fetch(_KEPT, symbol, first, last)
    found = {row["day"]: _map_of(row) for row in rows}
    for low, high in list(_days_without(found, first, last)):
        found.update(await read_fresh(connection, symbol, (max(low, span[0]), min(high, span[1]))))
    return found


async def read_fresh(connection: Connection, symbol: str, span: Span) -> dict[datetime, MinuteMap]:
    """The maps according to the candles of the minutes that ``span`` touches; days without candles are left out."""
    rows = await connection.fetch(MAPS_OF_CANDLES, symbol, bucket_start(span[0], MINUTE), bucket_end(span[1], MINUTE))
    return {row["day"]: _map_of(row) for row in rows}


def _days_without(found: Iterable[datetime], first: datetime, last: datetime) -> Iterable[Span]:
    """The stretches of days without a map, each of at most 60 days."""
    low = first
    for day in [*sorted(found), last]:
        while low < day:
            high = min(day, low + _LONGEST_READ)
            yield low, high
            low = high
        low = day + DAY


def _map_of(row: asyncpg.Record) -> MinuteMap:
    return MinuteMap(_mask(row["built"]), _mask(row["sent"]), _mask(row["imported"]))


def _mask(bits: asyncpg.BitString | None) -> int:
    if bits is None:
        return 0
    return FULL if len(bits) == 1 else int.from_bytes(bits.bytes, "big")


async def find_wrong_maps(
    connection: Connection, symbols: Sequence[str] | None, span: Span
) -> list[tuple[str, datetime]]:
    """The symbols and days of kept maps that are not those of the stored candles, in order.

    Args:
        symbols: None for all.
        span: Whole days.
    """
    rows = await connection.fetch(_WRONG, symbols, *span)
    return [(row["symbol"], row["day"]) for row in rows]


_KEPT = "SELECT day, built, sent, imported FROM minute_maps WHERE symbol = $1 AND day >= $2 AND day < $3"


def _maps_of(condition: str) -> str:
    """SQL: the maps of all days of all symbols, from the one-minute candles that meet the condition."""
    names = {"built": "trades", "sent": "ohlc", "imported": "csv"}
    found = ", ".join(f"bit_or(minute) FILTER (WHERE source = '{source}') AS {name}" for name, source in names.items())
    short = ", ".join(
        f"CASE bit_count({name}) WHEN {MINUTES} THEN B'1' ELSE {name}::bit varying({MINUTES}) END AS {name}"
        for name in names
    )
    return f"""
    SELECT symbol, day, {short} FROM (
        SELECT symbol, day, {found} FROM (
            SELECT symbol, day, source,
                   set_bit(0::bit({MINUTES}), (extract(epoch FROM timestamp - day) / 60)::integer, 1) AS minute
            FROM candles, date_bin('1 day', timestamp, '2000-01-03 00:00:00+00') AS day
            WHERE interval_minutes = 1 AND {condition}
        ) AS candle
        GROUP BY symbol, day
    ) AS map
"""  # noqa: S608 — only constants are put in


MAPS_OF_CANDLES = _maps_of("symbol = $1 AND timestamp >= $2 AND timestamp < $3")
"""SQL: the maps of the days of a symbol ($1) that have a candle in ``[$2, $3)``."""

# Each symbol by the index: the table has a row per symbol and day.
_WRONG = f"""
    SELECT m.symbol, m.day
    FROM (SELECT DISTINCT symbol FROM data_sync_status WHERE $1::text[] IS NULL OR symbol = ANY ($1)) AS s
    JOIN minute_maps m ON m.symbol = s.symbol AND m.day >= $2 AND m.day < $3
    LEFT JOIN ({_maps_of("($1::text[] IS NULL OR symbol = ANY ($1)) AND timestamp >= $2 AND timestamp < $3")}) AS f
      ON f.symbol = m.symbol AND f.day = m.day
    WHERE (m.built, m.sent, m.imported) IS DISTINCT FROM (f.built, f.sent, f.imported)
    ORDER BY 1, 2
"""  # noqa: S608 — constants are put in
