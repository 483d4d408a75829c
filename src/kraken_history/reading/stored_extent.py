"""Since when, and until when, each symbol has stored candles and trades, from the ledger alone."""

from datetime import datetime

from msgspec import Struct

from kraken_history.database.connections import Connection
from kraken_history.records import TimeRange, floor_minute


class Extent(Struct, frozen=True):
    """The extent of one symbol's data.

    Attributes:
        trades_since: From when trades are there: the oldest, or the end of the time of which retention dropped them;
            None if there is none.
        candles_since: The same of the one-minute candles.
        until: Time of the newest stored data: of the newest trade, or the open time of the newest candle. Of the rest
            of that minute nothing can be known yet.
    """

    trades_since: datetime | None
    candles_since: datetime | None
    until: datetime

    @property
    def since(self) -> datetime:
        """From when data is there; ``until`` if retention has dropped all of it.

        If the oldest candle is that of the oldest trade, it is the time of the trade: of the candle's part before the
        trade nothing is known.
        """
        if self.trades_since and self.candles_since and floor_minute(self.trades_since) == self.candles_since:
            return self.trades_since
        return min((moment for moment in (self.trades_since, self.candles_since) if moment), default=self.until)


async def read_extents(connection: Connection) -> dict[str, Extent]:
    """By symbol, in alphabetical order. Symbols of which nothing was ever stored are left out."""
    rows = await connection.fetch(_EXTENTS)
    return {row["symbol"]: Extent(row["trades_since"], row["candles_since"], row["until"]) for row in rows}


async def read_dropped(connection: Connection) -> dict[str, list[TimeRange]]:
    """By table, ``trades`` or ``candles``: the time whose rows retention dropped, in order."""
    rows = await connection.fetch("SELECT relation, ranges FROM dropped_ranges ORDER BY relation")
    found = {row["relation"]: [TimeRange(each.lower, each.upper) for each in row["ranges"]] for row in rows}
    return {relation: ranges for relation, ranges in found.items() if ranges}


# Retention drops whole days of trades and weeks of candles, oldest first.
_EXTENTS = """
    WITH extent AS (
        SELECT symbol, data_type, newest_timestamp AS newest, total_records > 0 AS has_rows,
               greatest(oldest_timestamp, (
                   SELECT upper(gone) FROM dropped_ranges, unnest(ranges) AS gone
                   WHERE relation = CASE data_type WHEN 'trades' THEN 'trades' ELSE 'candles' END
                     AND gone @> oldest_timestamp
               )) AS since
        FROM data_sync_status WHERE oldest_timestamp IS NOT NULL
    )
    SELECT symbol,
           min(since) FILTER (WHERE data_type = 'trades' AND has_rows AND since <= newest) AS trades_since,
           min(since) FILTER (WHERE data_type = 'candles_1m' AND has_rows AND since <= newest) AS candles_since,
           max(newest) AS until
    FROM extent GROUP BY symbol ORDER BY symbol
"""
