"""Records which minutes a write changed: for longer intervals, followers of candles, coverage and the archive."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import asyncpg
import msgspec

from kraken_history.completeness.status_rows import ONE_WRITE, open_rows
from kraken_history.database.connections import Connection
from kraken_history.records import TimeRange
from kraken_history.storing.announcing import announce
from kraken_history.storing.archived_months import NEW_VERSIONS
from kraken_history.storing.map_building import DELETE_MAPS
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

    Maps of the changed days are deleted, and archived months get a new version. The symbols must be locked. Followers
    are notified only after the commit of an announced transaction.

    Args:
        spans: By symbol: the first and the last minute that changed.
        new: By symbol: number of minutes that had no candle before.
        stale: By symbol: the whole hours in which minutes changed.
    """
    symbols = sorted(spans)
    seconds = [(s, int(spans[s][0].timestamp()), int(spans[s][1].timestamp())) for s in symbols]
    payloads = [
        msgspec.json.encode(seconds[at : at + _MOST_NOTIFIED]).decode() for at in range(0, len(seconds), _MOST_NOTIFIED)
    ]
    lost = sorted(set(symbols) - await _note(connection, symbols, spans, new, stale))
    if lost:
        await open_rows(connection, lost, "candles_1m")
        await _note(connection, lost, spans, new, stale)
    announce(connection, payloads)


async def _note(
    connection: Connection,
    symbols: Sequence[str],
    spans: Mapping[str, tuple[datetime, datetime]],
    new: Mapping[str, int],
    stale: Mapping[str, Sequence[TimeRange]],
) -> set[str]:
    """Mark the hours of these symbols, delete the maps of their days, change archived months, update their rows.

    Returns:
        The symbols that have a row.
    """
    marks = [(symbol, each.start, each.end) for symbol in symbols for each in stale[symbol]]
    rows = await connection.fetch(
        _NOTE_CANDLES,
        symbols,
        [spans[symbol][0] for symbol in symbols],
        [spans[symbol][1] for symbol in symbols],
        [new[symbol] for symbol in symbols],
        *([mark[place] for mark in marks] for place in range(3)),
    )
    return {row["symbol"] for row in rows}


_NOTE_CANDLES = f"""
    WITH marked AS ({MARK_HOURS.format(symbols="$5", starts="$6", ends="$7")}),
    versions AS ({NEW_VERSIONS.format(symbols="$5", starts="$6", ends="$7")}),
    outdated AS ({DELETE_MAPS.format(symbols="$5", starts="$6", ends="$7")}),
    n AS MATERIALIZED (
        SELECT n.*, newest_generation(n.symbol, 'candles_1m') AS generation
        FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::bigint[]) AS n (symbol, oldest, newest, count)
    )
    UPDATE data_sync_status s
    SET oldest_timestamp = least(s.oldest_timestamp, n.oldest),
        newest_timestamp = greatest(s.newest_timestamp, n.newest),
        total_records = s.total_records + n.count,
        last_sync_at = now(), {ONE_WRITE}
    FROM n
    WHERE s.symbol = n.symbol AND s.data_type = 'candles_1m' AND s.generation = n.generation
    RETURNING s.symbol
"""  # noqa: S608 — constants are put in
