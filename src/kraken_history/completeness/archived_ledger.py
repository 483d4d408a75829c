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
    SELECT (SELECT range_agg(int8range(first_id, stop_id)) FROM absent_ids WHERE symbol = $1) AS absent,
           {COVERED_BY_TRADES} AS covered_trades, c.time_ranges AS covered_candles
    FROM (SELECT) AS always
    LEFT JOIN data_sync_status s ON s.symbol = $1 AND s.data_type = 'trades'
    LEFT JOIN data_sync_status c ON c.symbol = $1 AND c.data_type = 'candles_1m'
"""  # noqa: S608 — a constant is put in
