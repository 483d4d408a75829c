"""Every write of market data in the project.

One transaction: lock the symbols' ledger rows in order, keep the trade ids that the ledger lacks, COPY them,
extend the ledger, add them to their candles, merge the exchange's own candles, notify. The ledger decides by
(symbol, id) alone, so redelivery, two producers, and a backfill beside the live feed change nothing.

Candles follow two rules, which together make the order of arrival irrelevant:

* A candle of source ``trades`` holds exactly the stored trades of its minute. New trades are added to it;
  where another source's candle stands instead, it is rebuilt from the stored trades.
* Of two candles of different sources the fuller one wins: the greater (trade_count, source).
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain

import asyncpg
import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from kraken_history.candles import candle_deltas
from kraken_history.ledger import IdRange, IdRanges
from kraken_history.postgres import Connection
from kraken_history.records import (
    MINUTE,
    CandleSource,
    HistoricalCandle,
    HistoricalTrade,
    floor_minute,
    group_by_symbol,
)

CANDLES_CHANNEL = "kraken_history_candles"
"""NOTIFY channel. Payload: a JSON array of ``[symbol, first minute, last minute]``, unix seconds, both touched."""

MOST_HOLES_REPORTED = 100
"""Of one symbol and write, the newest. The worker's sweep sees all."""

_HOUR = timedelta(hours=1)
_MOST_NOTIFIED = 100  # symbols a payload, which PostgreSQL limits to 8,000 bytes
_TRADE_COLUMNS = ("id", "symbol", "timestamp", "price", "volume", "side", "order_type", "misc")


class Stored(Struct, frozen=True):
    """What a write did.

    Attributes:
        new_trades: Trades that were not in the ledger, and are now.
        known_trades: Trades that the ledger already held, and repeats within the batch.
        new_candles: Minutes that had no candle before.
        holes: By symbol with new trades: ids missing between the lowest and the highest held.
    """

    new_trades: int
    known_trades: int
    new_candles: int
    holes: dict[str, IdRanges]


class Store:
    """Writes to one database; safe to use from many tasks and processes at once."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._days_with_partitions: set[datetime] = set()

    async def write(
        self,
        trades: Sequence[HistoricalTrade] = (),
        candles: Sequence[HistoricalCandle] = (),
        *,
        candle_source: CandleSource = "ohlc",
    ) -> Stored:
        """Store trades, and one-minute candles of another source, in one transaction.

        Cancelled or failed, nothing of the batch is stored; committed, all of it is. Writing it again
        changes nothing.

        Raises:
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver says;
                :func:`kraken_history.postgres.is_transient` tells which may pass.
        """
        async with self._pool.acquire() as connection:
            try:
                return await self._write(connection, trades, candles, candle_source)
            except asyncpg.CheckViolationError:
                # Retention may have dropped a partition that was there when this process last looked.
                self._days_with_partitions.clear()
                return await self._write(connection, trades, candles, candle_source)

    async def _write(
        self,
        connection: Connection,
        trades: Sequence[HistoricalTrade],
        candles: Sequence[HistoricalCandle],
        candle_source: CandleSource,
    ) -> Stored:
        await self.ensure_partitions(connection, trades, candles)
        async with connection.transaction():
            return await write_within(connection, trades, candles, candle_source=candle_source)

    async def ensure_partitions(
        self, connection: Connection, trades: Sequence[HistoricalTrade], candles: Sequence[HistoricalCandle]
    ) -> None:
        """Make the partitions that a batch needs, outside of its transaction. Hypertables need none."""
        moments = {t.timestamp.date(): t.timestamp for t in trades}
        moments.update({c.timestamp.date(): c.timestamp for c in candles})
        missing = [moment for moment in moments.values() if _day(moment) not in self._days_with_partitions]
        if missing:
            for table in ("trades", "candles"):
                await connection.execute("SELECT ensure_partitions($1, $2)", table, missing)
            self._days_with_partitions.update(map(_day, missing))


async def write_within(
    connection: Connection,
    trades: Sequence[HistoricalTrade],
    candles: Sequence[HistoricalCandle],
    *,
    candle_source: CandleSource,
) -> Stored:
    """:meth:`Store.write` inside a transaction of the caller, who has more to commit with it."""
    merged = _fullest(candles)
    by_symbol = group_by_symbol(trades)
    symbols = sorted(by_symbol.keys() | {candle.symbol for candle in merged})
    if not symbols:
        return Stored(0, 0, 0, {})
    held = await _lock_ledger(connection, symbols, by_symbol)
    new = {symbol: unheld for symbol, group in by_symbol.items() if (unheld := _unheld(group, held[symbol]))}
    new_count = sum(map(len, new.values()))
    holes: dict[str, IdRanges] = {}
    minutes = _TouchedMinutes()
    if new:
        added = list(chain.from_iterable(new.values()))
        await _copy_trades(connection, added)
        holes = await _extend_ledger(connection, new)
        minutes.add(await _add_to_candles(connection, added))
    if merged:
        minutes.add(await connection.fetch(_MERGE_CANDLES, *_candle_columns(merged), candle_source))
    if minutes:
        await _note_candles(connection, minutes)
    return Stored(new_count, len(trades) - new_count, sum(minutes.new.values()), holes)


class _TouchedMinutes:
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


def _day(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _strength(candle: HistoricalCandle) -> tuple[object, ...]:
    """Orders candles of one source and minute totally, so that any order of merging ends the same."""
    c = candle
    return (c.trade_count, c.volume, c.high, -c.low, c.quote_volume, c.vwap, c.open, c.close)


def _fullest(candles: Iterable[HistoricalCandle]) -> list[HistoricalCandle]:
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


async def lock_symbol(connection: Connection, symbol: str) -> None:
    """Keep every other writer from a symbol's trades and candles until the end of the transaction."""
    await _lock_ledger(connection, [symbol], {})


async def _lock_ledger(
    connection: Connection, symbols: list[str], by_symbol: Mapping[str, Sequence[HistoricalTrade]]
) -> dict[str, IdRanges]:
    """Lock the symbols until the end of the transaction; return what is held of the ids in question."""
    spans = [_span(by_symbol.get(symbol, ())) for symbol in symbols]
    arguments = (symbols, [span[0] for span in spans], [span[1] for span in spans])
    rows = await connection.fetch(_LOCK_LEDGER, *arguments)
    if len(rows) < len(symbols):
        await connection.execute(_OPEN_LEDGER, symbols)
        rows = await connection.fetch(_LOCK_LEDGER, *arguments)
    return {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["held"]) for row in rows}


def _span(trades: Sequence[HistoricalTrade]) -> IdRange:
    ids = [trade.id for trade in trades]
    return (min(ids), max(ids) + 1) if ids else (0, 0)


# ORDER BY makes all writers lock in the same order. Only the ledger near the batch crosses the wire.
_LOCK_LEDGER = """
    SELECT s.symbol, s.id_ranges * int8multirange(int8range(w.low, w.high)) AS held
    FROM data_sync_status s
    JOIN unnest($1::text[], $2::bigint[], $3::bigint[]) AS w (symbol, low, high) USING (symbol)
    WHERE s.data_type = 'trades'
    ORDER BY s.symbol
    FOR UPDATE OF s
"""

_OPEN_LEDGER = """
    INSERT INTO data_sync_status (symbol, data_type)
    SELECT symbol, 'trades' FROM unnest($1::text[]) AS symbol ORDER BY symbol
    ON CONFLICT DO NOTHING
"""


def _unheld(trades: Sequence[HistoricalTrade], held: IdRanges) -> Sequence[HistoricalTrade]:
    """The trades of one symbol that the ledger lacks; of a trade that comes twice in the batch, the first."""
    if not held and len({trade.id for trade in trades}) == len(trades):
        return trades
    first_seen: dict[int, HistoricalTrade] = {}
    for trade in trades:
        if trade.id not in held:
            first_seen.setdefault(trade.id, trade)
    return list(first_seen.values())


async def _copy_trades(connection: Connection, trades: Sequence[HistoricalTrade]) -> None:
    data = _copy_csv(trades)
    if data is None:
        await connection.copy_records_to_table("trades", records=map(astuple, trades), columns=_TRADE_COLUMNS)
    else:
        await connection.copy_to_table("trades", source=_one_chunk(data), columns=_TRADE_COLUMNS, format="csv")


async def _one_chunk(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _copy_csv(trades: Sequence[HistoricalTrade]) -> bytes | None:
    """The trades in COPY's CSV format, or None where one holds text that the shortcut below would garble.

    A JSON array of strings and integers is a line of CSV, but for its brackets and for escapes; and msgspec
    writes JSON several times faster than Python, or the driver's binary encoding, can write rows.
    """
    rows = msgspec.json.encode(trades)[2:-2]
    if b"\\" in rows or rows.count(b"],[") != len(trades) - 1:
        return None
    return rows.replace(b"],[", b"\n")


async def _extend_ledger(connection: Connection, new: Mapping[str, Sequence[HistoricalTrade]]) -> dict[str, IdRanges]:
    rows = await connection.fetch(
        _EXTEND_LEDGER,
        list(new),
        [_multirange(IdRanges.of(trade.id for trade in trades)) for trades in new.values()],
        [len(trades) for trades in new.values()],
        [min(trade.timestamp for trade in trades) for trades in new.values()],
        [max(trade.timestamp for trade in trades) for trades in new.values()],
        MOST_HOLES_REPORTED,
    )
    return {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["holes"] or ()) for row in rows}


def _multirange(ranges: IdRanges) -> str:
    return "{" + ",".join(f"[{start},{stop})" for start, stop in ranges) + "}"


_EXTEND_LEDGER = """
    UPDATE data_sync_status s
    SET id_ranges = s.id_ranges + n.ids::int8multirange,
        absent_id_ranges = s.absent_id_ranges - n.ids::int8multirange,
        oldest_timestamp = least(s.oldest_timestamp, n.oldest),
        newest_timestamp = greatest(s.newest_timestamp, n.newest),
        total_records = s.total_records + n.count,
        last_sync_at = now()
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::timestamptz[])
        AS n (symbol, ids, count, oldest, newest)
    WHERE s.symbol = n.symbol AND s.data_type = 'trades'
    RETURNING s.symbol, (
        SELECT array_agg(hole) FROM (
            SELECT hole FROM unnest(ledger_holes(s.id_ranges, s.absent_id_ranges)) AS hole
            ORDER BY hole DESC LIMIT $6
        ) AS newest_holes
    ) AS holes
"""


async def _add_to_candles(connection: Connection, added: Sequence[HistoricalTrade]) -> list[asyncpg.Record]:
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
            last_trade_id = greatest(c.last_trade_id, excluded.last_trade_id)
        WHERE c.source = 'trades'
    )
    SELECT a.symbol, a.timestamp, b.source::text AS source_before
    FROM added a LEFT JOIN before b USING (symbol, timestamp)
"""  # noqa: S608 — only constants of this module are put in

_REBUILD_CANDLES = """
    UPDATE candles c
    SET open = b.open, high = b.high, low = b.low, close = b.close, volume = b.volume,
        quote_volume = b.quote_volume, trade_count = b.trade_count,
        vwap = div(b.quote_volume * 10000000000, b.volume) * 0.0000000001,
        source = 'trades', first_trade_id = b.first_trade_id, last_trade_id = b.last_trade_id
    FROM (
        SELECT m.symbol, m.minute,
               (array_agg(t.price ORDER BY t.id))[1] AS open, max(t.price) AS high, min(t.price) AS low,
               (array_agg(t.price ORDER BY t.id DESC))[1] AS close, sum(t.volume) AS volume,
               sum(t.price * t.volume) AS quote_volume, count(*)::integer AS trade_count,
               min(t.id) AS first_trade_id, max(t.id) AS last_trade_id
        FROM unnest($1::text[], $2::timestamptz[]) AS m (symbol, minute)
        JOIN trades t ON t.symbol = m.symbol AND t.timestamp >= m.minute
                     AND t.timestamp < m.minute + interval '1 minute'
        WHERE t.timestamp >= $3 AND t.timestamp < $4
        GROUP BY m.symbol, m.minute
    ) AS b
    WHERE c.symbol = b.symbol AND c.timestamp = b.minute AND c.interval_minutes = 1
      AND c.timestamp >= $3 AND c.timestamp < $4
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
            vwap = excluded.vwap, source = excluded.source, first_trade_id = NULL, last_trade_id = NULL
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


async def _note_candles(connection: Connection, minutes: _TouchedMinutes) -> None:
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
