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
               t.oldest_timestamp AS oldest, t.newest_timestamp AS newest, t.highest_id AS newest_id,
               coalesce(h.missing, 0) AS missing, coalesce(h.holes, 0) AS holes,
               coalesce(c.total_records, 0) AS candles, c.newest_timestamp AS newest_candle
        FROM (SELECT * FROM data_sync_status WHERE data_type = 'trades') AS t
        FULL JOIN (SELECT * FROM data_sync_status WHERE data_type = 'candles_1m') AS c USING (symbol)
        LEFT JOIN (
            SELECT u.symbol, sum(u.missing)::bigint AS missing, sum(CASE
                WHEN u.missing = u.stop_id - u.first_id THEN 1
                ELSE (SELECT count(*) FROM unnest(missing_within(u.symbol, u.first_id, u.stop_id))) END
            )::bigint AS holes
            FROM unheld_ids u WHERE u.missing > 0 GROUP BY u.symbol
        ) AS h USING (symbol)
        ORDER BY symbol
        """
    )
    return {row["symbol"]: Progress(**row) for row in rows}
