"""Records trades that are not stored: refused ones, and those whose id belongs to another stored trade.

Both are recorded in the transaction that stores the good trades of the same batch.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from kraken_history.completeness.unheld_rows import add_absent
from kraken_history.database.connections import Connection
from kraken_history.database.time_bounds import DAY, within
from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalTrade, RefusedTrade, group_by_symbol

SAME_TRADE = timedelta(microseconds=2)
"""How far the times of one trade may differ.

Cut to microseconds, the time over REST is up to one microsecond later than over the WebSocket; one more for safety.
"""

_LONGEST_TEXT = 2_000


async def note_refused(connection: Connection, refused: Sequence[RefusedTrade]) -> list[RefusedTrade]:
    """Record refused trades, and their ids as absent, so that nothing waits for them; return those that are new.

    A trade that is stored under the same id is better, and is left alone. The symbols must be locked.
    """
    distinct = {(trade.symbol, trade.id): trade for trade in refused}
    rows = await connection.fetch(
        _NOTE_REFUSED,
        [trade.symbol for trade in distinct.values()],
        [trade.id for trade in distinct.values()],
        [trade.timestamp for trade in distinct.values()],
        [_plain(trade.reason) for trade in distinct.values()],
        [_plain(trade.row) for trade in distinct.values()],
    )
    absent: dict[str, set[int]] = {}
    for row in rows:
        absent.setdefault(row["symbol"], set()).add(row["id"])
    if absent:
        await add_absent(connection, {symbol: IdRanges.of(ids) for symbol, ids in absent.items()})
    return [distinct[row["symbol"], row["id"]] for row in rows]


def _plain(text: str) -> str:
    """Text that PostgreSQL accepts, of bounded length."""
    return text[:_LONGEST_TEXT].replace("\x00", "\\0").encode(errors="replace").decode()


_NOTE_REFUSED = """
    INSERT INTO refused_trades AS r (symbol, id, timestamp, reason, row)
    SELECT o.* FROM unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::text[], $5::text[])
        AS o (symbol, id, timestamp, reason, row)
    WHERE NOT is_held(o.symbol, o.id)
    ORDER BY o.symbol, o.id
    ON CONFLICT (symbol, id) DO NOTHING
    RETURNING r.symbol, r.id
"""


async def note_reused(
    connection: Connection, known: Sequence[HistoricalTrade], differing: Sequence[HistoricalTrade] = ()
) -> list[HistoricalTrade]:
    """Find trades whose id is stored with other content, and record these ids; return those that are new.

    A stored trade is looked up where it must be, a moment around the offered time. Nothing is concluded in time whose
    trades retention has dropped.

    Args:
        known: Trades whose ids the ledger holds.
        differing: Trades that are known to differ from an earlier one of the same batch.
    """
    found = [*differing]
    if known:
        first = min(trade.timestamp for trade in known) - SAME_TRADE
        last = max(trade.timestamp for trade in known) + SAME_TRADE
        rows = await connection.fetch(
            _FIND_REUSED.format(within=within("t.timestamp", first, last, DAY)),
            [trade.symbol for trade in known],
            [trade.id for trade in known],
            [trade.timestamp for trade in known],
            [str(trade.price) for trade in known],  # as text, which the driver encodes several times faster
            [str(trade.volume) for trade in known],
            [trade.side for trade in known],
            SAME_TRADE,
        )
        found += [known[row["at"] - 1] for row in rows]
    distinct = {(trade.symbol, trade.id): trade for trade in found}
    return await _note_ids(connection, group_by_symbol(distinct.values())) if distinct else []


def differ(one: HistoricalTrade, other: HistoricalTrade) -> bool:
    """True if these are two trades, although they have one id; the SQL below decides the same."""
    return (one.price, one.volume, one.side) != (other.price, other.volume, other.side) or abs(
        one.timestamp - other.timestamp
    ) > SAME_TRADE


async def _note_ids(
    connection: Connection, by_symbol: Mapping[str, Sequence[HistoricalTrade]]
) -> list[HistoricalTrade]:
    offered = {symbol: IdRanges.of(trade.id for trade in by_symbol[symbol]) for symbol in sorted(by_symbol)}
    before = await connection.fetch("SELECT symbol, ids FROM reused_ids WHERE symbol = ANY ($1)", list(offered))
    noted = {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["ids"]) for row in before}
    await connection.execute(_NOTE_REUSED, list(offered), [ids.as_multirange() for ids in offered.values()])
    newly = {symbol: ids - noted.get(symbol, IdRanges()) for symbol, ids in offered.items()}
    return [trade for symbol, trades in by_symbol.items() for trade in trades if trade.id in newly[symbol]]


# LIMIT makes the lookup of each trade one search in the index of trades.
_FIND_REUSED = """
    SELECT o.at
    FROM unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::text[], $5::text[], $6::text[])
        WITH ORDINALITY AS o (symbol, id, timestamp, price, volume, side, at)
    LEFT JOIN LATERAL (
        SELECT t.price = o.price::numeric AND t.volume = o.volume::numeric AND t.side = o.side AS is_same
        FROM trades t
        WHERE t.timestamp BETWEEN o.timestamp - $7::interval AND o.timestamp + $7::interval
          AND {within} AND t.symbol = o.symbol AND t.id = o.id
        LIMIT 1
    ) AS stored ON true
    WHERE is_same IS NOT TRUE
      AND NOT EXISTS (SELECT FROM dropped_ranges d WHERE d.relation = 'trades' AND d.ranges @> o.timestamp)
    ORDER BY o.at
"""

_NOTE_REUSED = """
    INSERT INTO reused_ids AS r (symbol, ids)
    SELECT symbol, ids::int8multirange FROM unnest($1::text[], $2::text[]) AS n (symbol, ids)
    ON CONFLICT (symbol) DO UPDATE SET ids = r.ids + excluded.ids, last_seen = now()
"""
