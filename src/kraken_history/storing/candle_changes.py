"""Records which minutes a write changed: for the refresh of longer intervals, followers of candles, and the archive."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import asyncpg
import msgspec

from kraken_history.database.connections import Connection
from kraken_history.storing.announcing import announce
from kraken_history.storing.archived_months import new_versions

_HOUR = timedelta(hours=1)
_MOST_NOTIFIED = 100  # symbols per payload, which PostgreSQL limits to 8,000 bytes


class TouchedMinutes:
    """By symbol: the first and the last minute that a write changed, its hours, and the number of new minutes."""

    def __init__(self) -> None:
        self.spans: dict[str, tuple[datetime, datetime]] = {}
        self.hours: dict[str, set[datetime]] = {}
        self.new: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self.spans)

    def add(self, rows: Iterable[asyncpg.Record]) -> None:
        for row in rows:
            symbol, minute = row["symbol"], row["timestamp"]
            low, high = self.spans.get(symbol, (minute, minute))
            self.spans[symbol] = min(low, minute), max(high, minute)
            self.hours.setdefault(symbol, set()).add(minute.replace(minute=0))
            self.new[symbol] += row["source_before"] is None


async def note_touched(connection: Connection, minutes: TouchedMinutes) -> None:
    """Call :func:`note_candles` for the minutes of a write."""
    stale = {
        symbol: "{" + ",".join(f"[{h},{h + _HOUR})" for h in sorted(hours)) + "}"
        for symbol, hours in minutes.hours.items()
    }
    await note_candles(connection, minutes.spans, minutes.new, stale)


async def note_candles(
    connection: Connection,
    spans: Mapping[str, tuple[datetime, datetime]],
    new: Mapping[str, int],
    stale: Mapping[str, str],
) -> None:
    """Update the candles' sync status and the versions of archived months, and notify followers after the commit.

    The symbols must be locked. Followers are notified only after an announced transaction.

    Args:
        spans: By symbol: the first and the last minute that changed.
        new: By symbol: number of minutes that had no candle before.
        stale: By symbol: the whole hours in which minutes changed, as a ``tstzmultirange``.
    """
    symbols = sorted(spans)
    lows, highs = [spans[s][0] for s in symbols], [spans[s][1] for s in symbols]
    seconds = [(s, int(spans[s][0].timestamp()), int(spans[s][1].timestamp())) for s in symbols]
    payloads = [
        msgspec.json.encode(seconds[at : at + _MOST_NOTIFIED]).decode() for at in range(0, len(seconds), _MOST_NOTIFIED)
    ]
    counts, stales = [new[s] for s in symbols], [stale[s] for s in symbols]
    await connection.execute(_NOTE_CANDLES, symbols, lows, highs, counts, stales)
    announce(connection, payloads)


_NOTE_CANDLES = f"""
    WITH changed AS MATERIALIZED (
        SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::text[])
            AS n (symbol, oldest, newest, count, stale)
    ), versions AS ({new_versions("changed")})
    INSERT INTO data_sync_status AS s
        (symbol, data_type, oldest_timestamp, newest_timestamp, total_records, stale_ranges)
    SELECT n.symbol, 'candles_1m', n.oldest, n.newest, n.count, n.stale::tstzmultirange FROM changed AS n
    ON CONFLICT (symbol, data_type) DO UPDATE SET
        oldest_timestamp = least(s.oldest_timestamp, excluded.oldest_timestamp),
        newest_timestamp = greatest(s.newest_timestamp, excluded.newest_timestamp),
        total_records = s.total_records + excluded.total_records,
        stale_ranges = s.stale_ranges + excluded.stale_ranges,
        last_sync_at = now()
"""  # noqa: S608 — a constant is put in
