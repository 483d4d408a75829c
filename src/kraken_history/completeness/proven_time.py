"""Time that the ledger proves complete: a symbol's trades in it are stored, and no id is missing among them.

It lacks the instant of the oldest trade, unless a page covers it: an earlier trade may share this instant.
"""

from collections.abc import Sequence

from kraken_history.completeness.hole_times import find_hole_spans
from kraken_history.database.connections import Connection
from kraken_history.intervals import Span


async def find_proven_time(connection: Connection, symbol: str, span: Span) -> list[Span]:
    """The parts of ``span`` that are proven complete, oldest first.

    Where retention dropped trades or candles, what is proven may not be stored any more.
    """
    holes = await find_hole_spans(connection, symbol, span)
    rows = await connection.fetch(_PROVEN, symbol, *span, [low for low, _ in holes], [high for _, high in holes])
    return [(row["proven"].lower, row["proven"].upper) for row in rows]


def as_multirange(spans: Sequence[Span]) -> str:
    """The text of a ``tstzmultirange``."""
    return "{" + ",".join(f"[{start.isoformat()},{end.isoformat()})" for start, end in spans) + "}"


# A page's time is not recorded between the oldest and the newest trade, so it ends at the oldest one.
_AFTER_THE_OLDEST = """
    CASE WHEN s.oldest_timestamp < s.newest_timestamp THEN tstzmultirange(tstzrange(
        CASE WHEN s.time_ranges @> s.oldest_timestamp - interval '1 microsecond' THEN s.oldest_timestamp
        ELSE s.oldest_timestamp + interval '1 microsecond' END, s.newest_timestamp))
    ELSE '{}'::tstzmultirange END"""

_PROVEN = f"""
    SELECT unnest((s.time_ranges + {_AFTER_THE_OLDEST}) * tstzmultirange(tstzrange($2, $3)) - coalesce((
               SELECT range_agg(tstzrange(low, high)) FROM unnest($4::timestamptz[], $5::timestamptz[]) AS h (low, high)
           ), '{{}}')) AS proven
    FROM data_sync_status s WHERE symbol = $1 AND data_type = 'trades'
"""  # noqa: S608 — a constant is put in
