"""Candles of longer intervals that have no minutes below them, as a read takes them.

They can serve a bucket if they cover all of it, and if the ledger does not prove the bucket complete by itself. Then
the fuller candle is read: that of the minutes, or the other one. The two are never mixed within a bucket, so half a
bucket of minutes does not hide the whole candle of the exchange.
"""

from kraken_history.completeness.longer_cover import data_type_of, find_longer_cover, serving
from kraken_history.completeness.proven_time import find_proven_time
from kraken_history.database.connections import Connection
from kraken_history.intervals import Span, bucket_end, bucket_start, width_of
from kraken_history.reading.candle_query import LongerPart
from kraken_history.reading.live_edge import without


def longer_types(interval: int) -> list[str]:
    """The data types in ``data_sync_status`` whose candles can serve an interval."""
    return [data_type_of(each) for each in serving(interval)]


async def find_longer_parts(connection: Connection, symbol: str, interval: int, span: Span) -> list[LongerPart]:
    """Where candles without minutes can serve a read; nothing where all minutes are proven complete."""
    cover = await find_longer_cover(connection, symbol, interval, span)
    if not cover:
        return []
    extent = min(spans[0][0] for spans in cover.values()), max(spans[-1][1] for spans in cover.values())
    width = width_of(interval)
    kept = [(row["kept"].lower, row["kept"].upper) for row in await connection.fetch(_KEPT, *extent)]
    proven = [
        (bucket_end(low, width), bucket_start(high, width))
        for start, end in await find_proven_time(connection, symbol, extent)
        for low, high in ((max(start, first), min(end, last)) for first, last in kept)
        if low < high
    ]
    own = [each for each in proven if each[0] < each[1]]
    parts = [LongerPart(each, without(spans, own)) for each, spans in cover.items()]
    return [part for part in parts if part.spans]


# Minutes that were dropped do not count as proven here: the candle of the exchange may be all that is left.
_KEPT = """
    SELECT unnest(
        tstzmultirange(tstzrange($1, $2))
        - coalesce((SELECT ranges FROM dropped_ranges WHERE relation = 'candles'), '{}')
    ) AS kept
"""
