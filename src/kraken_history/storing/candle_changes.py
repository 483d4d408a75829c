"""Records which minutes a write changed: for the refresh of the longer intervals, and for followers of candles."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import asyncpg
import msgspec

from kraken_history.database.connections import Connection
from kraken_history.records import TimeRange
from kraken_history.storing.announcing import announce
from kraken_history.storing.stale_time import MARK_HOURS

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
    stale = {symbol: [TimeRange(h, h + _HOUR) for h in sorted(hours)] for symbol, hours in minutes.hours.items()}
    await note_candles(connection, minutes.spans, minutes.new, stale)


async def note_candles(
    connection: Connection,
    spans: Mapping[str, tuple[datetime, datetime]],
    new: Mapping[str, int],
    stale: Mapping[str, Sequence[TimeRange]],
) -> None:
    """Update the candles' sync status, mark stale hours, and notify followers.

    They are notified after the commit of an announced transaction.

    Args:
        spans: By symbol: the first and the last minute that changed.
        new: By symbol: number of minutes that had no candle before.
        stale: By symbol: the whole hours in which minutes changed.
    """
    symbols = sorted(spans)
    lows, highs = [spans[s][0] for s in symbols], [spans[s][1] for s in symbols]
    seconds = [(s, int(spans[s][0].timestamp()), int(spans[s][1].timestamp())) for s in symbols]
    payloads = [
        msgspec.json.encode(seconds[at : at + _MOST_NOTIFIED]).decode() for at in range(0, len(seconds), _MOST_NOTIFIED)
    ]
    marks = [(s, each.start, each.end) for s in symbols for each in stale[s]]
    columns = ([mark[n] for mark in marks] for n in range(3))
    await connection.execute(_NOTE_CANDLES, symbols, lows, highs, [new[s] for s in symbols], *columns)
    announce(connection, payloads)


_NOTE_CANDLES = f"""
    WITH marked AS ({MARK_HOURS.format(symbols="$5", starts="$6", ends="$7")})
    INSERT INTO data_sync_status AS s (symbol, data_type, oldest_timestamp, newest_timestamp, total_records)
    SELECT n.symbol, 'candles_1m', n.oldest, n.newest, n.count
    FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::bigint[]) AS n (symbol, oldest, newest, count)
    ON CONFLICT (symbol, data_type) DO UPDATE SET
        oldest_timestamp = least(s.oldest_timestamp, excluded.oldest_timestamp),
        newest_timestamp = greatest(s.newest_timestamp, excluded.newest_timestamp),
        total_records = s.total_records + excluded.total_records,
        last_sync_at = now()
"""  # noqa: S608 — a constant is put in
