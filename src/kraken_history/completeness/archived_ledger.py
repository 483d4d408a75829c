"""The part of the ledger that an archive holds beside the rows, and that a restored database gets back.

The stored ids of a month follow from its trades. The absent ids, the covered time and the contested minutes do not.
"""

from collections.abc import Sequence

from msgspec import Struct

from kraken_history.completeness.covered_time import COVERED_BY_TRADES
from kraken_history.database.connections import Connection
from kraken_history.intervals import Span
from kraken_history.ledger import IdRanges


class ArchivedLedger(Struct, frozen=True):
    """What the ledger of a symbol knows beside its stored ids.

    Attributes:
        absent: Ids that Kraken was shown not to have.
        covered_trades: Time of which every trade is stored, or its id is known to be missing; in order.
        covered_candles: Time of which every minute has its candle, or nobody traded; in order.
    """

    absent: IdRanges
    covered_trades: Sequence[Span]
    covered_candles: Sequence[Span]


async def read_archived_ledger(connection: Connection, symbol: str) -> ArchivedLedger:
    """What is known of a symbol now; nothing if the symbol has no ledger."""
    row = await connection.fetchrow(_READ, symbol)
    assert row is not None  # the statement has one row, whatever is stored
    return ArchivedLedger(
        IdRanges((r.lower, r.upper) for r in row["absent"] or ()),
        [(r.lower, r.upper) for r in row["covered_trades"] or ()],
        [(r.lower, r.upper) for r in row["covered_candles"] or ()],
    )


_READ = f"""
    SELECT s.absent_id_ranges AS absent, {COVERED_BY_TRADES} AS covered_trades, c.time_ranges AS covered_candles
    FROM (SELECT) AS always
    LEFT JOIN data_sync_status s ON s.symbol = $1 AND s.data_type = 'trades'
    LEFT JOIN data_sync_status c ON c.symbol = $1 AND c.data_type = 'candles_1m'
"""  # noqa: S608 — a constant is put in


async def restore_ids(
    connection: Connection, symbol: str, held: IdRanges, absent: IdRanges, extent: Span | None
) -> None:
    """Add restored trades and absent ids to the ledger. The symbol must be locked.

    Args:
        held: The ids of the trades.
        extent: Times of the first and the last of them; None if there are none.
    """
    oldest, newest = extent or (None, None)
    await connection.execute(
        _RESTORE_IDS, symbol, held.as_multirange(), absent.as_multirange(), len(held), oldest, newest
    )


_RESTORE_IDS = """
    UPDATE data_sync_status SET
        id_ranges = id_ranges + $2::text::int8multirange,
        absent_id_ranges = absent_id_ranges + $3::text::int8multirange - $2::text::int8multirange,
        total_records = total_records + $4,
        oldest_timestamp = least(oldest_timestamp, $5), newest_timestamp = greatest(newest_timestamp, $6),
        last_sync_at = now()
    WHERE symbol = $1 AND data_type = 'trades'
"""
