"""Writing candles, inside a transaction that holds the symbols' locks.

Two rules, which together make the order of arrival irrelevant:

* A candle of source ``trades`` holds exactly the stored trades of its minute. New trades are added to it;
  where another source's candle stands instead, it is rebuilt from the stored trades.
* Of two candles of different sources the fuller one wins: the greater (trade_count, source).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import asyncpg
import msgspec

from kraken_history.database.connections import Connection
from kraken_history.records import MINUTE, CandleSource, HistoricalCandle, HistoricalTrade, floor_minute
from kraken_history.storing.candle_deltas import candle_deltas

CANDLES_CHANNEL = "kraken_history_candles"
"""NOTIFY channel. Payload: a JSON array of ``[symbol, first minute, last minute]``, unix seconds, both touched."""

_HOUR = timedelta(hours=1)
_MOST_NOTIFIED = 100  # symbols a payload, which PostgreSQL limits to 8,000 bytes


class TouchedMinutes:
    """By symbol: the first and the last minute that a write touched, the hours, and how many minutes were new."""

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


def _strength(candle: HistoricalCandle) -> tuple[object, ...]:
    """Orders candles of one source and minute totally, so that any order of merging ends the same."""
    c = candle
    return (c.trade_count, c.volume, c.high, -c.low, c.quote_volume, c.vwap, c.open, c.close)


def fullest(candles: Iterable[HistoricalCandle]) -> list[HistoricalCandle]:
    """The strongest candle of each symbol and minute; empty minutes are not stored."""
    best: dict[tuple[str, datetime], HistoricalCandle] = {}
    for candle in candles:
        if candle.interval_minutes != 1:
            raise ValueError("only one-minute candles are stored; longer ones are aggregated from them")
        if not candle.trade_count:
            continue
        key = candle.symbol, floor_minute(candle.timestamp)
        known = best.get(key)
        if known is None or _strength(known) < _strength(candle):
            best[key] = candle
    return [best[key] for key in sorted(best)]


async def add_to_candles(connection: Connection, added: Sequence[HistoricalTrade]) -> list[asyncpg.Record]:
    """Add new trades to their candles; return the minutes with the source that stood there before, if any."""
    grouped = candle_deltas(added)
    deltas = [grouped[key] for key in sorted(grouped)]
    rows = await connection.fetch(
        _ADD_TO_CANDLES,
        *_candle_columns([delta.candle() for delta in deltas]),
        [delta.first_trade_id for delta in deltas],
        [delta.last_trade_id for delta in deltas],
    )
    others = [row for row in rows if row["source_before"] not in (None, "trades")]
    if others:
        minutes = [row["timestamp"] for row in others]
        symbols = [row["symbol"] for row in others]
        await connection.execute(_REBUILD_CANDLES, symbols, minutes, min(minutes), max(minutes) + MINUTE)
    return rows


def _candle_columns(candles: Sequence[HistoricalCandle]) -> list[list[object]]:
    fields = (
        "symbol", "timestamp", "open", "high", "low", "close", "volume", "quote_volume", "trade_count", "vwap",
    )  # fmt: skip
    return [[getattr(candle, field) for candle in candles] for field in fields]


_CANDLE_PARAMETERS = """unnest(
        $1::text[], $2::timestamptz[], $3::numeric[], $4::numeric[], $5::numeric[], $6::numeric[],
        $7::numeric[], $8::numeric[], $9::integer[], $10::numeric[]"""

_CANDLE_NAMES = "symbol, timestamp, open, high, low, close, volume, quote_volume, trade_count, vwap"

# The candle of source `trades` holds all stored trades of the minute, and the ledger lets each trade in once:
# so adding is exact. Where another source's candle stands, nothing is done here, and the row says so.
_ADD_TO_CANDLES = f"""
    WITH added AS MATERIALIZED (
        SELECT * FROM {_CANDLE_PARAMETERS}, $11::bigint[], $12::bigint[])
            AS a ({_CANDLE_NAMES}, first_trade_id, last_trade_id)
    ), before AS MATERIALIZED (
        SELECT c.symbol, c.timestamp, c.source
        FROM added a JOIN candles c
          ON c.timestamp = a.timestamp AND c.symbol = a.symbol AND c.interval_minutes = 1
        WHERE c.timestamp = ANY ($2)
    ), upserted AS (
        INSERT INTO candles AS c ({_CANDLE_NAMES}, interval_minutes, source, first_trade_id, last_trade_id)
        SELECT {_CANDLE_NAMES}, 1, 'trades', first_trade_id, last_trade_id FROM added
        ON CONFLICT (timestamp, symbol, interval_minutes) DO UPDATE SET
            open = CASE WHEN excluded.first_trade_id < c.first_trade_id THEN excluded.open ELSE c.open END,
            high = greatest(c.high, excluded.high),
            low = least(c.low, excluded.low),
            close = CASE WHEN excluded.last_trade_id > c.last_trade_id THEN excluded.close ELSE c.close END,
            volume = c.volume + excluded.volume,
            quote_volume = c.quote_volume + excluded.quote_volume,
            trade_count = c.trade_count + excluded.trade_count,
            vwap = div((c.quote_volume + excluded.quote_volume) * 10000000000, c.volume + excluded.volume)
                   * 0.0000000001,
            first_trade_id = least(c.first_trade_id, excluded.first_trade_id),
            last_trade_id = greatest(c.last_trade_id, excluded.last_trade_id),
            stored_at = excluded.stored_at
        WHERE c.source = 'trades'
    )
    SELECT a.symbol, a.timestamp, b.source::text AS source_before
    FROM added a LEFT JOIN before b USING (symbol, timestamp)
"""  # noqa: S608 — only constants of this module are put in

# Symbols and times are said again as constants: of a compressed chunk, what these exclude stays compressed.
_REBUILD_CANDLES = """
    UPDATE candles c
    SET open = b.open, high = b.high, low = b.low, close = b.close, volume = b.volume,
        quote_volume = b.quote_volume, trade_count = b.trade_count,
        vwap = div(b.quote_volume * 10000000000, b.volume) * 0.0000000001,
        source = 'trades', first_trade_id = b.first_trade_id, last_trade_id = b.last_trade_id,
        stored_at = statement_timestamp()
    FROM (
        SELECT m.symbol, m.minute,
               (array_agg(t.price ORDER BY t.id))[1] AS open, max(t.price) AS high, min(t.price) AS low,
               (array_agg(t.price ORDER BY t.id DESC))[1] AS close, sum(t.volume) AS volume,
               sum(t.price * t.volume) AS quote_volume, count(*)::integer AS trade_count,
               min(t.id) AS first_trade_id, max(t.id) AS last_trade_id
        FROM unnest($1::text[], $2::timestamptz[]) AS m (symbol, minute)
        JOIN trades t ON t.symbol = m.symbol AND t.timestamp >= m.minute
                     AND t.timestamp < m.minute + interval '1 minute'
        WHERE t.symbol = ANY ($1) AND t.timestamp >= $3 AND t.timestamp < $4
        GROUP BY m.symbol, m.minute
    ) AS b
    WHERE c.symbol = b.symbol AND c.timestamp = b.minute AND c.interval_minutes = 1
      AND c.symbol = ANY ($1) AND c.timestamp >= $3 AND c.timestamp < $4
      AND (b.trade_count, 'trades'::candle_source) > (c.trade_count, c.source)
"""


def merging_candles(offered: str, touched: str, source: str) -> str:
    """The rule of the fuller candle, as the head of a statement: a ``WITH`` list without its last ``SELECT``.

    That may use ``offered``; ``before`` (symbol, timestamp, source), what stood in the minutes that are offered;
    and ``merged`` (symbol, timestamp), the minutes that changed.

    Args:
        offered: A query for one-minute candles, each minute once, by the names of the table's columns.
        touched: A condition on ``c.timestamp`` that all offered candles meet, for the sake of the plan.
        source: An expression for their source.
    """
    # As _strength orders them, after the source.
    return f"""
    WITH offered AS MATERIALIZED ({offered}), before AS MATERIALIZED (
        SELECT c.symbol, c.timestamp, c.source
        FROM offered o JOIN candles c
          ON c.timestamp = o.timestamp AND c.symbol = o.symbol AND c.interval_minutes = 1
        WHERE {touched}
    ), merged AS (
        INSERT INTO candles AS c ({_CANDLE_NAMES}, interval_minutes, source)
        SELECT {_CANDLE_NAMES}, 1, {source} FROM offered
        ON CONFLICT (timestamp, symbol, interval_minutes) DO UPDATE SET
            open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
            volume = excluded.volume, quote_volume = excluded.quote_volume, trade_count = excluded.trade_count,
            vwap = excluded.vwap, source = excluded.source, first_trade_id = NULL, last_trade_id = NULL,
            stored_at = excluded.stored_at
        WHERE (excluded.trade_count, excluded.source, excluded.volume, excluded.high, -excluded.low,
               excluded.quote_volume, excluded.vwap, excluded.open, excluded.close)
            > (c.trade_count, c.source, c.volume, c.high, -c.low, c.quote_volume, c.vwap, c.open, c.close)
        RETURNING c.symbol, c.timestamp
    )"""  # noqa: S608 — only constants are put in


_OFFERED = f"SELECT * FROM {_CANDLE_PARAMETERS}) AS o ({_CANDLE_NAMES})"  # noqa: S608 — only constants are put in
_MERGE_CANDLES = f"""
    {merging_candles(_OFFERED, "c.timestamp = ANY ($2)", "$11::text::candle_source")}
    SELECT m.symbol, m.timestamp, b.source::text AS source_before
    FROM merged m LEFT JOIN before b USING (symbol, timestamp)
"""  # noqa: S608 — only constants of this module are put in


async def merge_candles(
    connection: Connection, candles: Sequence[HistoricalCandle], source: CandleSource
) -> list[asyncpg.Record]:
    """Let candles of another source in where they are fuller; return the minutes that changed, with the source before.

    Args:
        candles: Each minute once, as :func:`fullest` gives them.
    """
    return await connection.fetch(_MERGE_CANDLES, *_candle_columns(candles), source)


async def note_touched(connection: Connection, minutes: TouchedMinutes) -> None:
    """:func:`note_candles` of a write."""
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
    """Keep the candles' sync status, and tell whoever follows them.

    Args:
        spans: By symbol: the first and the last minute that changed.
        new: By symbol: how many minutes had no candle before.
        stale: By symbol: the whole hours in which minutes changed, as a ``tstzmultirange``.
    """
    symbols = sorted(spans)
    lows, highs = [spans[s][0] for s in symbols], [spans[s][1] for s in symbols]
    seconds = [(s, int(spans[s][0].timestamp()), int(spans[s][1].timestamp())) for s in symbols]
    payloads = [
        msgspec.json.encode(seconds[at : at + _MOST_NOTIFIED]).decode() for at in range(0, len(seconds), _MOST_NOTIFIED)
    ]
    counts, stales = [new[s] for s in symbols], [stale[s] for s in symbols]
    await connection.execute(_NOTE_CANDLES, symbols, lows, highs, counts, stales, payloads, CANDLES_CHANNEL)


_NOTE_CANDLES = """
    WITH noted AS (
        INSERT INTO data_sync_status AS s
            (symbol, data_type, oldest_timestamp, newest_timestamp, total_records, stale_ranges)
        SELECT n.symbol, 'candles_1m', n.oldest, n.newest, n.count, n.stale::tstzmultirange
        FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::text[])
            AS n (symbol, oldest, newest, count, stale)
        ON CONFLICT (symbol, data_type) DO UPDATE SET
            oldest_timestamp = least(s.oldest_timestamp, excluded.oldest_timestamp),
            newest_timestamp = greatest(s.newest_timestamp, excluded.newest_timestamp),
            total_records = s.total_records + excluded.total_records,
            stale_ranges = s.stale_ranges + excluded.stale_ranges,
            last_sync_at = now()
    )
    SELECT pg_notify($7, payload) FROM unnest($6::text[]) AS payload
"""
