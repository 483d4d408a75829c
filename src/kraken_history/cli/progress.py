"""Stored trades and candles per symbol, as the demo's table and ``status`` show them."""

from datetime import datetime

from msgspec import Struct

from kraken_history.database.connections import Connection


class Progress(Struct, frozen=True):
    """One symbol in the database.

    Attributes:
        missing: Number of ids between the lowest and the highest stored id that are neither stored nor absent.
        holes: Number of ranges that the missing ids form.
    """

    symbol: str
    trades: int
    oldest: datetime | None
    newest: datetime | None
    newest_id: int | None
    missing: int
    holes: int
    candles: int
    newest_candle: datetime | None


async def fetch_progress(connection: Connection) -> dict[str, Progress]:
    """Every symbol that the ledger knows."""
    rows = await connection.fetch(
        """
        SELECT symbol, coalesce(t.total_records, 0) AS trades,
               t.oldest_timestamp AS oldest, t.newest_timestamp AS newest, upper(t.id_ranges) - 1 AS newest_id,
               (SELECT coalesce(sum(upper(hole) - lower(hole)), 0)::bigint FROM unnest(h.holes) AS hole) AS missing,
               (SELECT count(*) FROM unnest(h.holes)) AS holes,
               coalesce(c.total_records, 0) AS candles, c.newest_timestamp AS newest_candle
        FROM (SELECT * FROM data_sync_status WHERE data_type = 'trades') AS t
        FULL JOIN (SELECT * FROM data_sync_status WHERE data_type = 'candles_1m') AS c USING (symbol)
        CROSS JOIN LATERAL (SELECT ledger_holes(t.id_ranges, t.absent_id_ranges) AS holes) AS h
        ORDER BY symbol
        """
    )
    return {row["symbol"]: Progress(**row) for row in rows}
