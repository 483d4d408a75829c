"""Trades that are known and not stored, per symbol, as ``status`` shows them."""

from msgspec import Struct

from kraken_history.database.connections import Connection


class Asides(Struct, frozen=True):
    """Trades of one symbol that are not stored.

    Attributes:
        refused: Trades with a value that is not valid.
        unreachable: Missing ids that REST cannot show, because more than a page of trades share their instant.
        reused_ids: Ids under which Kraken sent another trade than the stored one.
        waiting: Trades whose ids leap absurdly far, which wait until Kraken confirms them.
    """

    refused: int = 0
    unreachable: int = 0
    reused_ids: int = 0
    waiting: int = 0

    @property
    def sentence(self) -> str:
        """The counts in words; empty if all are 0."""
        found = (
            (self.refused, "trade(s) refused because of a value that is not valid"),
            (self.unreachable, "missing trade(s) that Kraken's REST API cannot show"),
            (self.reused_ids, "id(s) under which Kraken sent a second trade, which was not stored"),
            (self.waiting, "trade(s) whose ids leap absurdly far, which wait until Kraken confirms them"),
        )
        return ", ".join(f"{count:,} {words}" for count, words in found if count)


async def fetch_asides(connection: Connection) -> dict[str, Asides]:
    """By symbol; symbols of which no trade was put aside are left out."""
    rows = await connection.fetch(_ASIDES)
    return {
        row["symbol"]: Asides(row["refused"], row["unreachable"], row["reused_ids"], row["waiting"]) for row in rows
    }


_ASIDES = """
    SELECT symbol, sum(refused)::bigint AS refused, sum(unreachable)::bigint AS unreachable,
           sum(reused_ids)::bigint AS reused_ids, sum(waiting)::bigint AS waiting
    FROM (
        SELECT symbol, count(*) AS refused, 0 AS unreachable, 0 AS reused_ids, 0 AS waiting
        FROM refused_trades GROUP BY symbol
        UNION ALL
        SELECT u.symbol, 0, sum(upper(r) - lower(r)), 0, 0
        FROM (SELECT symbol, range_agg(r) AS ids FROM unreachable_trades, unnest(ids) AS r GROUP BY symbol) AS u
        CROSS JOIN LATERAL unnest(u.ids * missing_within(u.symbol, lower(u.ids), upper(u.ids))) AS r GROUP BY u.symbol
        UNION ALL
        SELECT symbol, 0, 0, sum(upper(r) - lower(r)), 0 FROM reused_ids, unnest(ids) AS r GROUP BY symbol
        UNION ALL
        SELECT symbol, 0, 0, 0, count(*) FROM waiting_trades GROUP BY symbol
    ) AS counts GROUP BY symbol ORDER BY symbol
"""
