"""The ledger's part of a write: locks the symbols, looks up which ids are held, and adds the new ones.

Every write of trades or candles first locks the ledger of its symbols, until the end of the transaction.
"""

from collections.abc import Mapping, Sequence

import asyncpg
from msgspec import Struct

from kraken_history.completeness.unreachable import UNREACHABLE_IDS
from kraken_history.database.connections import Connection
from kraken_history.leaps import KnownTrade
from kraken_history.ledger import IdRange, IdRanges
from kraken_history.records import HistoricalTrade

MOST_HOLES_REPORTED = 100
"""Maximum number of missing ranges that a write reports per symbol, newest first.

The worker's sweep reads them all.
"""


class Held(Struct, frozen=True):
    """The ids that a symbol's ledger holds.

    Attributes:
        ids: Those between the lowest and the highest offered id.
        lowest, highest: The ends of all; None if there are none.
    """

    ids: IdRanges
    lowest: KnownTrade | None
    highest: KnownTrade | None


async def lock_symbol(connection: Connection, symbol: str) -> None:
    """Make all other writers of a symbol's trades and candles wait until the end of the transaction."""
    await lock_ledger(connection, [symbol], {})


async def lock_ledger(
    connection: Connection, symbols: list[str], by_symbol: Mapping[str, Sequence[HistoricalTrade]]
) -> dict[str, Held]:
    """Lock the symbols until the end of the transaction; return what their ledgers hold."""
    spans = [_span(by_symbol.get(symbol, ())) for symbol in symbols]
    arguments = (symbols, [span[0] for span in spans], [span[1] for span in spans])
    rows = await connection.fetch(_LOCK_LEDGER, *arguments)
    if len(rows) < len(symbols):
        await connection.execute(_OPEN_LEDGER, symbols)
        rows = await connection.fetch(_LOCK_LEDGER, *arguments)
    return {row["symbol"]: _held(row) for row in rows}


def _held(row: asyncpg.Record) -> Held:
    ends = [
        None if row[name] is None or row[moment] is None else KnownTrade(row[name], row[moment])
        for name, moment in (("lowest", "oldest"), ("highest", "newest"))
    ]
    return Held(IdRanges((r.lower, r.upper) for r in row["held"]), *ends)


def _span(trades: Sequence[HistoricalTrade]) -> IdRange:
    ids = [trade.id for trade in trades]
    return (min(ids), max(ids) + 1) if ids else (0, 0)


# ORDER BY makes all writers lock in the same order. If a symbol is new, none is locked here: a writer that held the
# others while it opens the new one could deadlock. Only the part of the ledger near the batch is transferred.
_LOCK_LEDGER = """
    SELECT s.symbol, s.id_ranges * int8multirange(int8range(w.low, w.high)) AS held,
           lower(s.id_ranges) AS lowest, s.oldest_timestamp AS oldest,
           upper(s.id_ranges) - 1 AS highest, s.newest_timestamp AS newest
    FROM data_sync_status s
    JOIN unnest($1::text[], $2::bigint[], $3::bigint[]) AS w (symbol, low, high) USING (symbol)
    WHERE s.data_type = 'trades' AND cardinality($1) = (
        SELECT count(*) FROM data_sync_status WHERE symbol = ANY ($1) AND data_type = 'trades'
    )
    ORDER BY s.symbol
    FOR UPDATE OF s
"""

# The update changes nothing. It locks the symbols that are there in one order with those that are inserted.
_OPEN_LEDGER = """
    INSERT INTO data_sync_status AS s (symbol, data_type)
    SELECT symbol, 'trades' FROM unnest($1::text[]) AS symbol ORDER BY symbol
    ON CONFLICT (symbol, data_type) DO UPDATE SET last_sync_at = s.last_sync_at
"""


async def extend_ledger(connection: Connection, new: Mapping[str, Sequence[HistoricalTrade]]) -> dict[str, IdRanges]:
    """Add the ids of new trades, by symbol; return each symbol's newest holes that can be fetched.

    The symbols must be locked. Refusals of these trades are removed.
    """
    rows = await connection.fetch(
        _EXTEND_LEDGER,
        list(new),
        [IdRanges.of(trade.id for trade in trades).as_multirange() for trades in new.values()],
        [len(trades) for trades in new.values()],
        [min(trade.timestamp for trade in trades) for trades in new.values()],
        [max(trade.timestamp for trade in trades) for trades in new.values()],
        MOST_HOLES_REPORTED,
    )
    return {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["holes"] or ()) for row in rows}


# A refused trade may be stored after all, for example by a later version. Ids that REST cannot show are no holes to
# request. Both tables are nearly always empty.
_EXTEND_LEDGER = f"""
    WITH n AS MATERIALIZED (
        SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::timestamptz[])
            AS n (symbol, ids, count, oldest, newest)
    ), accepted AS (
        DELETE FROM refused_trades r USING n WHERE r.symbol = n.symbol AND n.ids::int8multirange @> r.id
    )
    UPDATE data_sync_status s
    SET id_ranges = s.id_ranges + n.ids::int8multirange,
        absent_id_ranges = s.absent_id_ranges - n.ids::int8multirange,
        oldest_timestamp = least(s.oldest_timestamp, n.oldest),
        newest_timestamp = greatest(s.newest_timestamp, n.newest),
        total_records = s.total_records + n.count,
        last_sync_at = now()
    FROM n
    WHERE s.symbol = n.symbol AND s.data_type = 'trades'
    RETURNING s.symbol, (
        SELECT array_agg(hole) FROM (
            SELECT hole FROM unnest(ledger_holes(s.id_ranges, s.absent_id_ranges) - {UNREACHABLE_IDS}) AS hole
            ORDER BY hole DESC LIMIT $6
        ) AS newest_holes
    ) AS holes
"""  # noqa: S608 — a constant is put in
